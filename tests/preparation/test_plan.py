import numpy as np
import pytest
from hypothesis import given, strategies as st

from scratchpatch.data import sources, splits
from scratchpatch.preparation import plan


@given(st.binary(min_size=16, max_size=16), st.integers(1, 3000))
def test_a_shard_is_the_range_of_digests_that_it_says(digest, shards):
    shard = plan.shard_of(digest, shards)
    assert 0 <= shard < shards
    assert plan.lower_bound(shard, shards) <= int.from_bytes(digest[:8], "big") < plan.lower_bound(shard + 1, shards)


@given(st.lists(st.binary(min_size=16, max_size=16)), st.integers(1, 50))
def test_shards_one_after_the_other_are_all_documents_in_order(digests, shards):
    ordered = sorted(digests)
    assert sorted(ordered, key=lambda digest: plan.shard_of(digest, shards)) == ordered


def test_shares_are_kept_and_a_split_says_nothing_about_the_shard():
    digests = [splits.digest(b"%d" % i) for i in range(20_000)]
    parts = np.array([splits.split_of(splits.place(digest), 0.1) for digest in digests])
    for name, share in (("train", 0.8), ("validation", 0.1), ("test", 0.1)):
        assert (parts == name).mean() == pytest.approx(share, abs=0.01)
    shards = np.array([plan.shard_of(digest, 4) for digest in digests])
    for shard in range(4):
        assert (parts[shards == shard] == "train").mean() == pytest.approx(0.8, abs=0.02)
    assert {splits.split_of(splits.place(digest), 0.0) for digest in digests} == {"train"}


def test_tasks_are_groups_of_files_by_size():
    def tasks(sizes):
        files = tuple((str(i), str(i)) for i in range(len(sizes)))
        made = plan.Plan(sources.parse("text:/x"), files, tuple(sizes), "", "/out", 1, 0.1, "error")
        return [[int(name) for name, _ in task] for task in made.tasks()]

    whole = plan.TASK_BYTES
    assert tasks([1, 2, whole, 3]) == [[0, 1], [2], [3]]
    assert tasks([3 * whole, 1, whole - 1, 1]) == [[0], [1, 2], [3]]
    assert tasks([0, 0]) == [[0, 1]]
