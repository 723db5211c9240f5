"""Windows of a stream are those of its documents, whatever shards they lie in."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from scratchpatch.data.index import IndexedStream
from scratchpatch.data.shards import Shard, Writer
from scratchpatch.vocabulary import BYTES


@pytest.fixture(scope="module", autouse=True)
def unsynced():
    """Shards of tests need not outlive a power cut."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scratchpatch.data.shards.sync", lambda file: file.flush())
        yield


BOS, PAD = BYTES.bos, BYTES.pad
DOCUMENTS = st.lists(st.binary(max_size=9), min_size=1, max_size=8)


def make(documents, shard_count=1):
    """A stream of documents, the same number of them in each shard."""
    with tempfile.TemporaryDirectory() as folder:
        shards = []
        for number, own in enumerate(np.array_split(np.arange(len(documents)), min(shard_count, len(documents)))):
            writer = Writer(Path(folder), str(number))
            for document in own:
                writer.begin_document()
                writer.write(documents[document])
            shards.append(Shard(folder, writer.finish()))
            # The maps outlive the folder.
            assert len(shards[-1].starts(0, 1)) == 1 and len(shards[-1].mapped)
        return IndexedStream("text:x", "train", shards, "c")


def tokens(documents):
    return [t for d in documents for t in (BOS, *d)]


@given(DOCUMENTS, st.integers(1, 3), st.integers(0, 80), st.integers(0, 30))
def test_read_gives_tokens_and_pads_beyond_the_end(documents, shard_count, start, length):
    stream = make(documents, shard_count)
    assert stream.vocabulary is BYTES
    wanted = (tokens(documents) + [PAD] * 200)[start : start + length]
    tokens_W = stream.read(start, length)
    assert tokens_W.dtype == np.int32 and tokens_W.tolist() == wanted


@given(DOCUMENTS, st.integers(1, 9))
def test_windows_hold_every_target_once_and_overlap_by_one(documents, window):
    stream = make(documents)
    rows = stream.read_windows(np.arange(stream.windows(window)), window)
    assert rows.shape == (stream.windows(window), window + 1) and rows.dtype == np.int32
    targets = rows[:, 1:].reshape(-1)
    assert targets[targets != PAD].tolist() == tokens(documents)[1:]
    np.testing.assert_array_equal(rows[1:, 0], rows[:-1, -1])
    assert all((row[1:] != PAD).any() for row in rows)
    for w, row in enumerate(rows):
        np.testing.assert_array_equal(row, stream.read(w * window, window + 1))


@given(DOCUMENTS)
def test_documents_come_back_byte_for_byte(documents):
    stream = make(documents)
    assert list(stream.documents_iter()) == documents
    assert stream.concatenated() == b"".join(documents)
    assert (stream.documents, stream.bytes) == (len(documents), sum(map(len, documents)))
    assert len(stream) == stream.documents + stream.bytes


def test_all_byte_values_and_empty_documents():
    stream = make([b"", bytes(range(256)), b"", b"\0"])
    assert stream.read(0, 262).tolist() == [BOS, BOS, *range(256), BOS, BOS, 0, PAD]


@pytest.mark.parametrize("skipped, says", [(0, "2 documents, 3 bytes"), (4, "3 bytes, 4 bad record(s) skipped")])
def test_summary_counts(skipped, says):
    stream = make([b"ab", b"c"])
    stream.skipped = skipped
    assert stream.summary().startswith("text:x [train]: ") and stream.summary().endswith(says)
