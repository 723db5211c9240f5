"""Documents joined as BOS, bytes, BOS, bytes, ..., and windows of them by arithmetic.

Legend: R rows, W window + 1.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Iterator

import numpy as np

from scratchpatch.data.checks import Check
from scratchpatch.vocabulary import BYTES, Vocabulary


class Stream(abc.ABC):
    """One split of one source. `len(stream)` counts positions: a BOS per document, and the ids of its text.

    The stream ends with its last document; no BOS follows.

    Attributes:
        spec: the source, as the user wrote it.
        split: 'train', 'validation', 'test' or 'all'.
        documents: how many there are.
        bytes: raw bytes of all of them, BOS not counted.
        skipped: bad records of the whole source that were left out.
        broken: files of it that break off, so that more records are left out than were counted.
        checksum: of the source; it tells two states of the same files apart.
        check: the comparison of its files with their checksums, which may be under way (see `checks`), or None.
        vocabulary: its ids, with BOS and PAD, and the type of its elements on disk.
    """

    def __init__(
        self, spec: str, split: str, positions: int, documents: int, skipped: int, checksum: str,
        broken: int = 0, check: Check | None = None, vocabulary: Vocabulary = BYTES,
    ):
        self.spec, self.split = spec, split
        self._positions = positions
        self.documents = documents
        self.bytes = (positions - documents) * vocabulary.bytes_per_token
        self.skipped, self.broken = skipped, broken
        self.checksum, self.check = checksum, check
        self.vocabulary = vocabulary

    def __len__(self) -> int:
        return self._positions

    def watch(self) -> None:
        """Compare, in a thread, the files that are too large for it at opening; `read` raises what the thread finds."""
        if self.check is not None:
            self.check.start()

    def windows(self, window: int) -> int:
        """How many windows of `window` inputs (and as many targets) cover the stream once."""
        return -(-(len(self) - 1) // window)

    def read(self, start: int, length: int) -> np.ndarray:
        """int32 [length]: the tokens from position `start` on, PAD beyond the end.

        Raises UserError where `check` has found damage.
        """
        return self._rows([start], length)[0]

    def read_windows(self, windows_R: np.ndarray, window: int) -> np.ndarray:
        """int32 [R, window + 1]: window w has the positions from w * window to (w + 1) * window, both included."""
        return self._rows([int(w) * window for w in windows_R], window + 1)

    def _rows(self, starts_R: list[int], length: int) -> np.ndarray:
        if self.check is not None:
            self.check.raise_damage()
        tokens_RW = np.full((len(starts_R), length), self.vocabulary.pad, np.int32)
        self._fill(tokens_RW, starts_R)
        return tokens_RW

    @abc.abstractmethod
    def _fill(self, tokens_RW: np.ndarray, starts_R: list[int]) -> None:
        """Write the tokens from each start on, as far as the stream goes."""

    @abc.abstractmethod
    def key(self) -> str:
        """A name that tells this text, and where its documents begin, from any other."""

    @abc.abstractmethod
    def documents_iter(self) -> Iterator[bytes]:
        """The raw bytes of each document, in stream order."""

    def concatenated(self) -> bytes:
        """The raw bytes of all documents, one after the other."""
        return b"".join(self.documents_iter())

    def summary(self) -> str:
        """One line for a run's first lines."""
        left_out = f", {skipped_in_words(self.skipped, self.broken)}" if self.skipped else ""
        return f"{self.spec} [{self.split}]: {self.documents:,} documents, {self.bytes:,} bytes{left_out}"


class IndexedStream(Stream):
    """A stream in an index of its own (see `index`), memory-mapped."""

    def __init__(
        self, spec: str, split: str, data: np.ndarray, starts: np.ndarray, skipped: int, checksum: str,
        broken: int = 0, check: Check | None = None, vocabulary: Vocabulary = BYTES,
    ):
        """`data` has the id of each position, any where a BOS stands; `starts` is int64 [documents], where each BOS stands."""
        super().__init__(spec, split, len(data), len(starts), skipped, checksum, broken, check, vocabulary)
        self._data, self._starts = data, starts

    def _fill(self, tokens_RW: np.ndarray, starts_R: list[int]) -> None:
        for tokens_W, start in zip(tokens_RW, starts_R, strict=True):
            piece = self._data[start : start + len(tokens_W)]
            tokens_W[: len(piece)] = piece
            low, high = np.searchsorted(self._starts, (start, start + len(tokens_W)))
            tokens_W[self._starts[low:high] - start] = self.vocabulary.bos

    def key(self) -> str:
        text = hashlib.blake2b(f"{self.checksum}/{self.split}/{len(self)}/".encode(), digest_size=12)
        # Two texts of the same bytes may be divided into documents differently.
        text.update(np.ascontiguousarray(self._starts))
        return text.hexdigest()

    def documents_iter(self) -> Iterator[bytes]:
        for index, start in enumerate(self._starts):
            end = self._starts[index + 1] if index + 1 < self.documents else len(self)
            yield self._data[start + 1 : end].tobytes()


def skipped_in_words(skipped: int, broken: int) -> str:
    """What was left out: records, and files that break off."""
    files = f", and what follows in {broken:,} file(s) that break off" if broken else ""
    return f"{skipped:,} bad record(s) skipped{files}"
