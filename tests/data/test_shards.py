"""The BOS of a shard are found between any of its positions."""

import numpy as np
from hypothesis import given, strategies as st

from scratchpatch.data.shards import PAGE, Shard, pack_starts


@given(st.sets(st.integers(1, 4 * PAGE - 1), max_size=60), st.data())
def test_starts_are_found_between_any_positions(tmp_path_factory, starts, data):
    starts = np.array([0, *sorted(starts)], np.int64)
    folder, length = tmp_path_factory.getbasetemp(), 4 * PAGE
    (folder / "a.starts").write_bytes(pack_starts(starts, length))
    entry = {"name": "a", "documents": len(starts), "bytes": length - len(starts), "checksums": {}}
    low, high = sorted(data.draw(st.tuples(*[st.integers(0, length)] * 2)))
    if low < high:
        between = Shard(str(folder), entry).starts(low, high)
        assert between.tolist() == starts[(starts >= low) & (starts < high)].tolist()
