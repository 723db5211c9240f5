"""Rows on the way to their places among others: what comes before the next byte is read, some positions at a time.

Legend: G rows that are read side by side, C positions of a chunk.
"""

import dataclasses

import numpy as np

from scratchpatch.inference.decoding import Programs

# Positions that are read at a time: each number is a program of its own.
CHUNKS = (16, 64, 256)


def chunks(length: int) -> list[int]:
    """The sizes of the chunks in which so many tokens are read."""
    whole, rest = divmod(length, CHUNKS[-1])
    return [CHUNKS[-1]] * whole + [next(size for size in CHUNKS if size >= rest)] * bool(rest)


@dataclasses.dataclass
class Pending:
    """A row, and how many of its tokens are read; `tokens` has what is read next at its end."""

    tokens: list[int]
    done: int
    row: object

    @property
    def left(self) -> int:
        """Tokens to read before the row can go on."""
        return len(self.tokens) - 1 - self.done


class Prefill:
    """Reads some rows side by side, each from the token at which its window starts."""

    def __init__(self, programs: Programs, parameters, pad: int, size: int, rows: list[Pending], dial: tuple | None):
        """size: G, of which the first are `rows`. dial: of `patching.step.dial`, for G rows."""
        self._programs, self._parameters, self._pad, self._size = programs, parameters, pad, size
        self._rows: list[Pending | None] = list(rows)
        self._cache = programs.empty(parameters, rows=size, dial=dial)

    @property
    def rows(self) -> list:
        """The rows that have no place yet."""
        return [pending.row for pending in self._rows if pending]

    def drop(self, row) -> None:
        """Leave out a row that is not wanted any more."""
        self._rows = [None if pending and pending.row is row else pending for pending in self._rows]

    def read(self) -> None:
        """Read a chunk of each row that is not ready."""
        most = max((pending.left for pending in self._rows if pending), default=0)
        if not most:
            return
        size = chunks(most)[0]
        tokens_GC = np.full((self._size, size), self._pad, np.int32)
        for tokens_C, pending in zip(tokens_GC, self._rows, strict=False):
            if pending:
                count = min(size, pending.left)
                tokens_C[:count] = pending.tokens[pending.done : pending.done + count]
                pending.done += count
        self._cache = self._programs.chunk(self._parameters, self._cache, tokens_GC)

    def settle(self, board, place) -> tuple[object, np.ndarray, list]:
        """The board with the rows that are ready at the places that `place(row)` names; those places, with one beyond
        the last for what is not placed, int32 [G]; and the rows. They have left the prefill.
        """
        beyond = board.token_B.shape[0]
        place_G, token_G, ready = np.full(self._size, beyond, np.int32), np.full(self._size, self._pad, np.int32), []
        for k, pending in enumerate(self._rows):
            if pending and not pending.left:
                place_G[k], token_G[k] = place(pending.row), pending.tokens[-1]
                ready.append((k, pending.row))
                self._rows[k] = None
        return self._programs.place(board, place_G, self._cache, token_G) if ready else board, place_G, ready
