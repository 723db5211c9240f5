"""Documents longer than the window, scored by overlapping windows.

Window k reads positions [k * stride, k * stride + L) with stride L // 2, and
answers for those that no earlier window reached: every position is answered once and sees at least half a window of
context where it exists. A row that begins inside a document counts its patches from the row's start.

Legend: T tokens of a stream, R rows, L positions of a row.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from scratchpatch.vocabulary import Vocabulary

SMALLEST = 64


@dataclasses.dataclass(frozen=True)
class Window:
    """Row [start, start + length) of a stream; answers for positions from `first` on, `count` of them."""

    start: int
    first: int
    count: int


def count(positions: int, length: int) -> int:
    """How many windows answer for `positions` tokens."""
    return 1 + max(-(-(positions - length) // _stride(length)), 0) if positions else 0


def window(k: int, positions: int, length: int) -> Window:
    """The k-th of the windows that answer for `positions` tokens."""
    start = k * _stride(length)
    first = start - _stride(length) + length if k else 0
    return Window(start, first, min(start + length, positions) - first)


def plan(positions: int, length: int) -> Iterator[Window]:
    """The windows that answer for `positions` tokens, each once."""
    return (window(k, positions, length) for k in range(count(positions, length)))


def start(position: int, length: int) -> int:
    """Where the window starts that answers for a position."""
    return max((position - length) // _stride(length) + 1, 0) * _stride(length)


def _stride(length: int) -> int:
    return max(length // 2, 1)


def row_length(positions: int, window: int) -> int:
    """Row length for a stream: the window, or less where the whole stream fits in less.

    A few sizes, so that a few programs serve documents of all lengths.
    """
    length = SMALLEST
    while length < positions and length < window:
        length *= 2
    return min(length, window)


class Text:
    """Tokens in memory with the reading interface of `data.stream.Stream`."""

    def __init__(self, tokens_T: np.ndarray, vocabulary: Vocabulary):
        self._tokens_T, self.vocabulary = tokens_T, vocabulary

    def __len__(self) -> int:
        return len(self._tokens_T)

    def read(self, start: int, length: int) -> np.ndarray:
        """int32 [length] from `start` on, PAD beyond the end."""
        part = self._tokens_T[start : start + length]
        return np.concatenate([part, np.full(length - len(part), self.vocabulary.pad, np.int32)]).astype(np.int32)


class Head:
    """The first `positions` tokens of a stream."""

    def __init__(self, stream, positions: int):
        self._stream, self._positions = stream, min(positions, len(stream))
        self.vocabulary = stream.vocabulary

    def __len__(self) -> int:
        return self._positions

    def read(self, start: int, length: int) -> np.ndarray:
        """int32 [length] from `start` on, PAD beyond the end."""
        tokens = self._stream.read(start, length)
        tokens[max(self._positions - start, 0) :] = self.vocabulary.pad
        return tokens
