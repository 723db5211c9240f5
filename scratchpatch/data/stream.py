"""Documents joined as BOS, bytes, BOS, bytes, ..., and windows of them by arithmetic.

Legend: R rows, W window + 1.
"""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Iterator

import numpy as np

from scratchpatch.data.checks import Check
from scratchpatch.data.records import skipped
from scratchpatch.vocabulary import BOS, BYTES, PAD


class Stream(abc.ABC):
    """One split of one source. `len(stream)` counts positions: a BOS per document, and the bytes.

    The stream ends with its last byte; no BOS follows the last document.

    Attributes:
        spec: the source, as the user wrote it.
        split: 'train', 'validation', 'test' or 'all'.
        documents: how many there are.
        bytes: raw bytes of all of them, BOS not counted.
        skipped: bad records of the whole source that were left out.
        broken: files of it that break off, so that more records are left out than were counted.
        checksum: of the source; it tells two states of the same files apart.
        check: the comparison of its files with their checksums, which may be under way (see `checks`); None: there is none.
    """

    vocabulary = BYTES

    def __init__(
        self,
        spec: str,
        split: str,
        positions: int,
        documents: int,
        skipped: int,
        checksum: str,
        broken: int = 0,
        check: Check | None = None,
    ):
        self.spec, self.split = spec, split
        self._positions = positions
        self.documents = documents
        self.bytes = positions - documents
        self.skipped, self.broken = skipped, broken
        self.checksum = checksum
        self.check = check

    def __len__(self) -> int:
        return self._positions

    def watch(self) -> None:
        """Have a thread compare with their checksums what files are too large for that at opening; reading raises what it finds."""
        if self.check is not None:
            self.check.start()

    def windows(self, window: int) -> int:
        """Windows of `window` inputs (and as many targets) that cover the stream once."""
        return -(-(len(self) - 1) // window)

    def read(self, start: int, length: int) -> np.ndarray:
        """int32 [length]: the tokens from position `start` on, PAD beyond the end. Raises UserError where `check` found damage."""
        return self._rows([start], length)[0]

    def read_windows(self, windows_R: np.ndarray, window: int) -> np.ndarray:
        """int32 [R, window + 1]: window w stands at positions w * window to (w + 1) * window, both included."""
        return self._rows([int(w) * window for w in windows_R], window + 1)

    def _rows(self, starts_R: list[int], length: int) -> np.ndarray:
        if self.check is not None:
            self.check.raise_found()
        tokens_RW = np.full((len(starts_R), length), PAD, np.int32)
        self._fill(tokens_RW, starts_R)
        return tokens_RW

    @abc.abstractmethod
    def _fill(self, tokens_RW: np.ndarray, starts_R: list[int]) -> None:
        """Write the tokens from each start on, as far as the stream goes."""

    @abc.abstractmethod
    def key(self) -> str:
        """Tells this text, and where its documents begin, from any other."""

    @abc.abstractmethod
    def documents_iter(self) -> Iterator[bytes]:
        """The raw bytes of each document, in stream order."""

    def concatenated(self) -> bytes:
        """The raw bytes of all documents, one after the other."""
        return b"".join(self.documents_iter())

    def summary(self) -> str:
        """One line for a run's first lines."""
        left_out = f", {skipped(self.skipped, self.broken)}" if self.skipped else ""
        return f"{self.spec} [{self.split}]: {self.documents:,} documents, {self.bytes:,} bytes{left_out}"


class IndexedStream(Stream):
    """A stream in an index of its own (see `index`), memory-mapped."""

    def __init__(
        self,
        spec: str,
        split: str,
        data: np.ndarray,
        starts: np.ndarray,
        skipped: int,
        checksum: str,
        broken: int = 0,
        check: Check | None = None,
    ):
        """`data` is uint8 [positions] with any value where a BOS stands; `starts` int64 [documents], their BOS."""
        super().__init__(spec, split, len(data), len(starts), skipped, checksum, broken, check)
        self._data, self._starts = data, starts

    def _fill(self, tokens_RW: np.ndarray, starts_R: list[int]) -> None:
        for tokens_W, start in zip(tokens_RW, starts_R, strict=True):
            piece = self._data[start : start + len(tokens_W)]
            tokens_W[: len(piece)] = piece
            first, last = np.searchsorted(self._starts, (start, start + len(tokens_W)))
            tokens_W[self._starts[first:last] - start] = BOS

    def key(self) -> str:
        text = hashlib.blake2b(f"{self.checksum}/{self.split}/{len(self)}/".encode(), digest_size=12)
        # Two texts of the same bytes may fall into documents otherwise.
        text.update(np.ascontiguousarray(self._starts))
        return text.hexdigest()

    def documents_iter(self) -> Iterator[bytes]:
        for index, start in enumerate(self._starts):
            end = self._starts[index + 1] if index + 1 < self.documents else len(self)
            yield self._data[start + 1 : end].tobytes()
