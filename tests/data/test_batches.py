import itertools

import numpy as np
import pytest

from scratchpatch.data.batches import Batches
from scratchpatch.errors import UserError
from scratchpatch.vocabulary import BYTES


@pytest.fixture
def config(make_config, write_texts):
    """Two sources of about 30 and 60 windows of 16 bytes, 8 rows: an epoch of the first ends within 12 steps."""
    random = np.random.default_rng(0)
    a = write_texts([random.bytes(n) for n in random.integers(0, 40, 25)], "a")
    b = write_texts([random.bytes(n) for n in random.integers(0, 80, 25)], "b")
    return make_config([(a, 1.0), (b, 2.0)])


def test_a_batch_holds_windows_of_the_streams(config):
    batches = Batches(config)
    windows = {
        tuple(row)
        for stream, _ in batches.streams
        for row in stream.read_windows(np.arange(stream.windows(16)), 16).tolist()
    }
    batch = batches.batch(3)
    assert batch.shape == (8, 17) and batch.dtype == np.int32
    assert {tuple(row) for row in batch.tolist()} <= windows
    assert batches.bytes_per_epoch == sum(stream.bytes for stream, _ in batches.streams)


@pytest.mark.parametrize("processes, parts", [(1, 4), (2, 1), (2, 4), (4, 2)])
def test_parts_that_processes_share_make_up_the_batch(config, processes, parts):
    mine = np.array_split(np.arange(8 // parts), processes)
    shares = [Batches(config, "train", rows, parts).batch(3) for rows in mine]
    # [parts, rows of all processes]: what the devices hold, in the order of the mesh.
    placed = np.concatenate([share.reshape(parts, -1, share.shape[-1]) for share in shares], axis=1)
    np.testing.assert_array_equal(placed.reshape(-1, placed.shape[-1]), Batches(config).batch(3))


@pytest.mark.parametrize("processes", [1, 2, 4])
@pytest.mark.parametrize("threads", [1, 3])
def test_a_step_is_the_same_bytes_whatever_reads_it(config, processes, threads):
    whole = Batches(config)
    config.data.threads = threads
    parts = [Batches(config, rows=rows) for rows in np.array_split(np.arange(8), processes)]
    # From the start, from within, and across the ends of both sources' first epochs.
    for first, count in ((0, 16), (5, 3), (12, 4)):
        read = [list(itertools.islice(part.iterate(first), count)) for part in parts]
        for offset in range(count):
            assert [got[offset][0] for got in read] == [first + offset] * processes
            np.testing.assert_array_equal(
                np.concatenate([got[offset][1] for got in read]), whole.batch(first + offset)
            )


def test_batches_follow_weights_that_changed(config):
    plain, changed = Batches(config), Batches(config)
    changed.follow([(0, [1.0, 2.0]), (3, [8.0, 1.0])])
    for step in range(3):
        np.testing.assert_array_equal(changed.batch(step), plain.batch(step))
    assert (changed.batch(3) != plain.batch(3)).any()
    shares = [Batches(config, rows=rows) for rows in np.array_split(np.arange(8), 2)]
    for share in shares:
        share.follow([(0, [1.0, 2.0]), (3, [8.0, 1.0])])
    for step, *_ in itertools.islice(changed.iterate(1), 6):
        np.testing.assert_array_equal(np.concatenate([s.batch(step) for s in shares]), changed.batch(step))


def test_one_epoch_holds_every_window_once(make_config, write_texts):
    config = make_config([(write_texts([bytes([i]) * 31 for i in range(40)]), 1.0)])
    batches = Batches(config)
    ((stream, _),) = batches.streams
    count = stream.windows(16)
    rows = np.concatenate([batch for _, batch in itertools.islice(batches.iterate(), 2 * count // 8 + 1)])
    everything = stream.read_windows(np.arange(count), 16)
    for epoch in range(2):
        seen = rows[epoch * count : (epoch + 1) * count]
        np.testing.assert_array_equal(np.unique(seen, axis=0), np.unique(everything, axis=0))
        assert sorted(map(tuple, seen.tolist())) == sorted(map(tuple, everything.tolist()))
    assert (rows[:count] != rows[count : 2 * count]).any()


def test_a_tiny_source_repeats(make_config, write_texts):
    batches = Batches(make_config([(write_texts([b"ab"]), 1.0)]), split="all")
    assert batches.batch(1000).tolist() == [[BYTES.bos, 97, 98] + [BYTES.pad] * 14] * 8


def test_the_seed_changes_the_order(config):
    first = Batches(config).batch(0)
    config.seed = 1
    assert (Batches(config).batch(0) != first).any()


def test_rows_need_not_be_neighbours(config):
    whole = Batches(config, parts=2).batch(5).reshape(2, 4, -1)
    some = Batches(config, rows=[0, 2, 3], parts=2)
    np.testing.assert_array_equal(some.batch(5).reshape(2, 3, -1), whole[:, [0, 2, 3]])
    assert some.rows == 6


def test_parts_that_do_not_make_up_the_batch_are_an_error(config):
    with pytest.raises(UserError, match="batch_rows = 8 must be a multiple of its 3 parts"):
        Batches(config, parts=3)


def test_the_validation_split_is_read_on_request(config):
    assert {stream.split for stream, _ in Batches(config, split="validation").streams} == {"validation"}
