"""Documents longer than the window, scored by overlapping windows.

Window k reads positions [k * stride, k * stride + L) with stride L // 2, and
answers for those that no earlier window reached: every position is answered
once and sees at least half a window of context where it exists. A row that
begins inside a document counts its patches from the row's start.

Legend: T tokens of a stream, R rows, L positions of a row.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

from scratchpatch.vocabulary import PAD

SMALLEST = 64


@dataclasses.dataclass(frozen=True)
class Window:
    """Row [start, start + length) of a stream; answers for positions from `first` on, `count` of them."""

    start: int
    first: int
    count: int


def plan(positions: int, length: int) -> Iterator[Window]:
    """The windows that answer for `positions` tokens, each once."""
    stride, answered, start = max(length // 2, 1), 0, 0
    while answered < positions:
        end = min(start + length, positions)
        yield Window(start, answered, end - answered)
        answered, start = end, start + stride


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

    def __init__(self, tokens_T: np.ndarray):
        self._tokens_T = tokens_T

    def __len__(self) -> int:
        return len(self._tokens_T)

    def read(self, start: int, length: int) -> np.ndarray:
        """int32 [length] from `start` on, PAD beyond the end."""
        part = self._tokens_T[start : start + length]
        return np.concatenate([part, np.full(length - len(part), PAD, np.int32)]).astype(np.int32)


class Head:
    """The first `positions` tokens of a stream."""

    def __init__(self, stream, positions: int):
        self._stream, self._positions = stream, min(positions, len(stream))

    def __len__(self) -> int:
        return self._positions

    def read(self, start: int, length: int) -> np.ndarray:
        """int32 [length] from `start` on, PAD beyond the end."""
        tokens = self._stream.read(start, length)
        tokens[max(self._positions - start, 0) :] = PAD
        return tokens
