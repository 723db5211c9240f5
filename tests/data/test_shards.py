import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from scratchpatch.data.shards import PAGE, Starts, pack_starts


@given(st.sets(st.integers(0, 4 * PAGE - 1), max_size=60), st.data())
def test_starts_are_found_between_any_positions(starts, data):
    starts = np.array(sorted(starts), np.int64)
    packed = Starts(np.frombuffer(pack_starts(starts, 4 * PAGE), np.uint8), 4 * PAGE)
    low, high = sorted(data.draw(st.tuples(*[st.integers(0, 4 * PAGE)] * 2)))
    if low < high:
        assert packed.between(low, high).tolist() == starts[(starts >= low) & (starts < high)].tolist()
