import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchpatch.data import sources
from scratchpatch.preparation import plan


def test_a_document_hashes_the_same_everywhere():
    """Folders that were prepared long ago have this order, these shards and these splits."""
    assert plan.digest(b"").hex() == "c293e1ddb955a6d27f4d28a3dd83b6d8"
    assert plan.digest(b"a") != plan.digest(b"b") and len(plan.digest(b"a")) == 16


@given(st.binary(min_size=16, max_size=16), st.integers(1, 3000))
def test_a_shard_is_the_range_of_digests_that_it_says(found, shards):
    shard = plan.shard_of(found, shards)
    assert 0 <= shard < shards
    assert plan.first_of(shard, shards) <= int.from_bytes(found[:8], "big") < plan.first_of(shard + 1, shards)


@given(st.lists(st.binary(min_size=16, max_size=16)), st.integers(1, 50))
def test_shards_one_after_the_other_are_all_documents_in_order(digests, shards):
    ordered = sorted(digests)
    assert sorted(ordered, key=lambda found: plan.shard_of(found, shards)) == ordered


def test_shares_are_kept_and_a_split_says_nothing_about_the_shard():
    digests = [plan.digest(b"%d" % i) for i in range(20_000)]
    parts = np.array([plan.split_of(found, 0.1) for found in digests])
    for name, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert (parts == name).mean() == pytest.approx(share, abs=0.01)
    shards = np.array([plan.shard_of(found, 4) for found in digests])
    for shard in range(4):
        assert (parts[shards == shard] == "train").mean() == pytest.approx(0.8, abs=0.02)
    assert {plan.split_of(found, 0.0) for found in digests} == {"train"}


def test_tasks_are_groups_of_files_by_size():
    def tasks(sizes):
        files = tuple((str(i), str(i)) for i in range(len(sizes)))
        made = plan.Plan(sources.parse("text:/x"), files, (), tuple(sizes), "/out", 1, 0.1, "error")
        return [[int(name) for name, _ in task] for task in made.tasks()]

    whole = plan.TASK_BYTES
    assert tasks([1, 2, whole, 3]) == [[0, 1], [2], [3]]
    assert tasks([3 * whole, 1, whole - 1, 1]) == [[0], [1, 2], [3]]
    assert tasks([0, 0]) == [[0, 1]]
