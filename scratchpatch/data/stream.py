"""Documents joined as BOS, bytes, BOS, bytes, ..., and windows of them by arithmetic.

Legend: R rows, W window + 1.
"""

import abc
import bisect
import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np

from scratchpatch.data.checks import Check
from scratchpatch.data.records import skipped as skipped_in_words
from scratchpatch.data.shards import Shard, Stretch, read_stretches


@dataclasses.dataclass(eq=False)
class Stream(abc.ABC):
    """One split of one source. `len(stream)` counts positions: a BOS per document, and the ids of its text.

    The stream ends with its last document; no BOS follows. It is the same for any number of shards.
    """

    spec: str  # the source, as the user wrote it
    split: str  # 'train', 'validation', 'test' or 'all'
    shards: list[Shard]  # in the order of the stream
    checksum: str  # of the source; it tells two states of the same files apart
    skipped: int = 0  # bad records of the whole source that were left out
    broken: int = 0  # files of it that break off, so that more records are left out than were counted
    check: Check | None = None  # the comparison of its files with their checksums, which may be under way

    def __post_init__(self):
        # Where each shard begins in the stream, and where the last one ends.
        self._edges = [0, *itertools.accumulate(shard.length for shard in self.shards)]
        self.documents = sum(shard.document_count for shard in self.shards)
        # Raw bytes of all documents, BOS not counted.
        self.bytes = sum(shard.bytes for shard in self.shards)
        # Its ids, with BOS and PAD, and the type of its elements on disk.
        self.vocabulary = self.shards[0].vocabulary

    def __len__(self) -> int:
        return self._edges[-1]

    def watch(self) -> None:
        """Compare, in a thread, the files that are too large for it at opening; `read` raises what the thread finds."""
        if self.check is not None:
            self.check.start()

    def windows(self, window: int) -> int:
        """How many windows of `window` inputs (and as many targets) cover the stream once."""
        return -(-(len(self) - 1) // window)

    def beginning(self, byte_count: int) -> int:
        """How many positions at the beginning hold about so many bytes, a BOS counted as one: as many, or of tokens
        fewer, by the mean of the stream.
        """
        if self.vocabulary.is_bytes:
            return byte_count
        return -(-byte_count * len(self) // (self.bytes + self.documents))

    def read(self, start: int, length: int) -> np.ndarray:
        """int32 [length]: the tokens from position `start` on, PAD beyond the end. Raises UserError on damage."""
        return self._rows([start], length)[0]

    def read_windows(self, windows_R: np.ndarray, window: int) -> np.ndarray:
        """int32 [R, window + 1]: window w has the positions from w * window to (w + 1) * window, both included."""
        return self._rows([int(w) * window for w in windows_R], window + 1)

    def _rows(self, starts_R: list[int], length: int) -> np.ndarray:
        if self.check is not None:
            self.check.raise_damage()
        tokens_RW = np.full((len(starts_R), length), self.vocabulary.pad, np.int32)
        stretches = []
        for tokens_W, start in zip(tokens_RW, starts_R, strict=True):
            position, end = start, min(start + length, len(self))
            # A window goes on in the next shard where its own ends.
            while position < end:
                shard = bisect.bisect_right(self._edges, position) - 1
                low, high = self._edges[shard], min(end, self._edges[shard + 1])
                stretches.append(Stretch(self.shards[shard], position - low, tokens_W[position - start : high - start]))
                position = high
        read_stretches(stretches)
        for shard, start, tokens_W in stretches:
            starts = shard.starts(start, start + len(tokens_W))
            if len(starts):
                tokens_W[starts - start] = self.vocabulary.bos
        return tokens_RW

    @abc.abstractmethod
    def key(self) -> str:
        """A name that tells this text, and where its documents begin, from any other."""

    def documents_iter(self) -> Iterator[bytes]:
        """The raw bytes of each document, in stream order."""
        for shard in self.shards:
            yield from shard.documents()

    def concatenated(self) -> bytes:
        """The raw bytes of all documents, one after the other."""
        return b"".join(self.documents_iter())

    def summary(self) -> str:
        """One line for a run's first lines."""
        left_out = f", {skipped_in_words(self.skipped, self.broken)}" if self.skipped else ""
        tokens = "" if self.vocabulary.is_bytes else f" in {len(self) - self.documents:,} tokens"
        return f"{self.spec} [{self.split}]: {self.documents:,} documents, {self.bytes:,} bytes{tokens}{left_out}"
