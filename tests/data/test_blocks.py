import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter
from hypothesis import given
from hypothesis import strategies as st

from scratchpatch.data import blocks

COUNT = 40


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    """(path, uint8 [COUNT * BLOCK]): a file of blocks, and what was written."""
    path = str(tmp_path_factory.mktemp("blocks") / "a.array_record")
    wanted = np.random.default_rng(0).integers(0, 256, COUNT * blocks.BLOCK, np.uint8)
    writer = ArrayRecordWriter(path, blocks.WRITER_OPTIONS)
    for block in wanted.reshape(COUNT, -1):
        writer.write(block.tobytes())
    writer.close()
    return path, wanted


def test_arithmetic_finds_every_position_that_the_writer_of_array_record_wrote(shard):
    path, wanted = shard
    data = np.memmap(path, np.uint8, "r")
    found = np.concatenate([data[begin : begin + length] for _, begin, length in blocks.pieces(0, len(wanted))])
    np.testing.assert_array_equal(found, wanted)
    reader = ArrayRecordReader(path)
    assert reader.num_records() == COUNT
    np.testing.assert_array_equal(np.frombuffer(b"".join(reader.read_all()), np.uint8), wanted)
    reader.close()


@given(st.integers(0, COUNT * blocks.BLOCK), st.integers(0, 3 * blocks.BLOCK))
def test_pieces_of_any_stretch_lie_one_after_the_other_and_cover_it(start, length):
    whole = {position: begin for position, begin, _ in blocks.pieces(0, COUNT * blocks.BLOCK)}
    end, at, before = min(start + length, COUNT * blocks.BLOCK), start, -1
    for position, begin, count in blocks.pieces(start, end):
        assert position == at and count > 0 and begin > before
        if position in whole:
            assert whole[position] == begin
        at, before = position + count, begin
    assert at == max(end, start)


@given(st.sets(st.integers(0, 4 * blocks.BLOCK - 1), max_size=60), st.data())
def test_starts_are_found_between_any_positions(starts, data):
    starts = np.array(sorted(starts), np.int64)
    packed = blocks.Starts(np.frombuffer(blocks.pack_starts(starts, 4), np.uint8), 4)
    low, high = sorted(data.draw(st.tuples(*[st.integers(0, 4 * blocks.BLOCK)] * 2)))
    if low < high:
        assert packed.between(low, high).tolist() == starts[(starts >= low) & (starts < high)].tolist()
