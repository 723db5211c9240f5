import numpy as np
import pytest
from hypothesis import given, strategies as st

from scratchpatch import config
from scratchpatch.data import splits
from scratchpatch.errors import UserError


def test_a_name_and_a_document_hash_the_same_everywhere():
    assert splits.name_place("argparse.py") == 6259314216096594260
    assert splits.name_place("\udcff") != splits.name_place("")
    assert splits.digest(b"").hex() == "c293e1ddb955a6d27f4d28a3dd83b6d8"
    assert splits.digest(b"a") != splits.digest(b"b") and len(splits.digest(b"a")) == 16


def test_the_config_knows_the_same_shares():
    made = config.default()
    assert made.data.held_out == splits.SHARE
    made.data.held_out = splits.LARGEST_SHARE
    config.check(made)
    made.data.held_out += 0.001
    with pytest.raises(UserError, match="data.held_out"):
        config.check(made)


def test_shares_are_kept():
    dealt = [splits.split_of(splits.name_place(f"{i}"), 0.05) for i in range(20_000)]
    shares = [dealt.count(split) / len(dealt) for split in splits.SPLITS]
    np.testing.assert_allclose(shares, [0.9, 0.05, 0.05], atol=0.005)


@given(st.lists(st.integers(0, 2**64 - 1), max_size=12))
def test_the_least_share_is_one_that_does(places):
    least = splits.least_share(np.array(places, np.uint64))

    def does(share):
        return {"train", "validation"} <= {splits.split_of(place, share) for place in places}

    shares = [thousandths / 1000 for thousandths in range(1, 401)]
    assert (least is None) == (not any(map(does, shares)))
    assert least is None or does(least) and not any(does(share) for share in shares if share < least)


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
