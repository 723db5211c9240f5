"""Documents joined as BOS, bytes, BOS, bytes, ..., and windows of them by arithmetic.

Legend: R rows, W window + 1.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scratchpatch.vocabulary import BOS, PAD


class Stream:
    """One split of one source, memory-mapped. `len(stream)` counts positions: a BOS per document, and the bytes.

    The stream ends with its last byte; no BOS follows the last document.

    Attributes:
        spec: the source, as the user wrote it.
        split: 'train', 'validation', 'test' or 'all'.
        documents: how many there are.
        bytes: raw bytes of all of them, BOS not counted.
        skipped: bad records of the whole source that were left out.
        checksum: of the source's index; it tells two states of the same files apart.
    """

    def __init__(self, spec: str, split: str, data: np.ndarray, starts: np.ndarray, skipped: int, checksum: str):
        """`data` is uint8 [positions] with any value where a BOS stands; `starts` int64 [documents], their BOS."""
        self.spec, self.split = spec, split
        self._data, self._starts = data, starts
        self.documents = len(starts)
        self.bytes = len(data) - len(starts)
        self.skipped = skipped
        self.checksum = checksum

    def __len__(self) -> int:
        return len(self._data)

    @property
    def starts(self) -> np.ndarray:
        """int64 [documents]: the position of each document's BOS."""
        return self._starts

    def windows(self, window: int) -> int:
        """Windows of `window` inputs (and as many targets) that cover the stream once."""
        return -(-(len(self) - 1) // window)

    def read(self, start: int, length: int) -> np.ndarray:
        """int32 [length]: the tokens from position `start` on, PAD beyond the end."""
        tokens_W = np.full(length, PAD, np.int32)
        self._fill(tokens_W, start)
        return tokens_W

    def read_windows(self, windows_R: np.ndarray, window: int) -> np.ndarray:
        """int32 [R, window + 1]: window w stands at positions w * window to (w + 1) * window, both included."""
        tokens_RW = np.full((len(windows_R), window + 1), PAD, np.int32)
        for row, w in enumerate(windows_R):
            self._fill(tokens_RW[row], int(w) * window)
        return tokens_RW

    def _fill(self, tokens_W: np.ndarray, start: int) -> None:
        piece = self._data[start : start + len(tokens_W)]
        tokens_W[: len(piece)] = piece
        first, last = np.searchsorted(self._starts, (start, start + len(tokens_W)))
        tokens_W[self._starts[first:last] - start] = BOS

    def documents_iter(self) -> Iterator[bytes]:
        """The raw bytes of each document, in stream order."""
        for index, start in enumerate(self._starts):
            end = self._starts[index + 1] if index + 1 < self.documents else len(self)
            yield self._data[start + 1 : end].tobytes()

    def concatenated(self) -> bytes:
        """The raw bytes of all documents, one after the other."""
        return b"".join(self.documents_iter())

    def summary(self) -> str:
        """One line for a run's first lines."""
        skipped = f", {self.skipped:,} bad records skipped" if self.skipped else ""
        return f"{self.spec} [{self.split}]: {self.documents:,} documents, {self.bytes:,} bytes{skipped}"
