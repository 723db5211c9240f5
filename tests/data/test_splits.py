import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchpatch.data import splits
from scratchpatch.errors import UserError


def test_a_name_hashes_the_same_everywhere():
    assert splits.name_hash("argparse.py") == 6259314216096594260
    assert splits.name_hash("\udcff") != splits.name_hash("")


def test_shares_are_kept():
    hashes = np.array([splits.name_hash(f"{i}") for i in range(20_000)], np.uint64)
    counts = np.bincount(splits.assign(hashes, np.ones(len(hashes), np.int64), (0.05, 0.05)))
    np.testing.assert_allclose(counts / len(hashes), [0.9, 0.05, 0.05], atol=0.005)


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 3)), min_size=1, max_size=12))
def test_parts_with_bytes_as_far_as_there_are_documents(documents):
    hashes = np.array([h for h, _ in documents], np.uint64)
    sizes = np.array([s for _, s in documents], np.int64)
    parts = splits.assign(hashes, sizes, splits.SHARES)
    assert set(parts) <= {0, 1, 2}
    filled = set(parts[sizes > 0])
    assert filled == set(range(min(3, int((sizes > 0).sum()))))


@given(st.lists(st.integers(0, 2**64 - 1), min_size=3, max_size=40, unique=True), st.randoms())
def test_the_part_depends_on_the_names_and_not_on_their_order(hashes, random):
    where = dict(zip(hashes, splits.assign(np.array(hashes, np.uint64), np.ones(len(hashes)), (0.2, 0.2)), strict=True))
    random.shuffle(hashes)
    again = dict(zip(hashes, splits.assign(np.array(hashes, np.uint64), np.ones(len(hashes)), (0.2, 0.2)), strict=True))
    assert where == again


@given(st.integers(0, 10_000))
def test_a_cut_covers_the_document_in_order(size):
    (a, b), (c, d), (e, f) = splits.cut(size)
    assert (a, b, d, f) == (0, c, e, size)
    if size >= 3:
        assert min(b - a, d - c, f - e) >= 1
    if size >= 1:
        assert b > a


def test_a_large_cut_is_90_5_5():
    assert splits.cut(1000) == [(0, 900), (900, 950), (950, 1000)]


def test_a_wrong_split_is_named():
    with pytest.raises(UserError, match="'valid' is unknown; it is one of train, validation, test, all"):
        splits.check("valid")
