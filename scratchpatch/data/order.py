"""Which window stands in row k of the endless order of a mixture, for any k, by arithmetic.

Rows are dealt to the sources evenly in proportion to their weights, and a source's rows go through its windows in one
permutation per epoch: two coordinates of an a x b grid, shifted in turn by a hash of the other (a Feistel network,
whose cycles are followed until they are back below the number of windows). So a corpus of any size and a jump to any
row cost the same. The definition is ours, so a run resumes on the same data under another version of any library.
(Grain's own shuffle takes 20-2000 microseconds a row on sources of less than a thousand windows.)

Legend: R rows.
"""

import functools
import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Rows that are computed together: their cost per row is then far below that of reading.
BLOCK = 4096
_SHARE_UNITS = 1 << 20
_ROUNDS = 4


class Order:
    """The order of a mixture."""

    def __init__(
        self, windows: list[int], weights: list[float], seed: int, changes: Sequence[tuple[int, list[float]]] = ()
    ):
        """`windows` has how many each source has, at least 1; `changes` has (row, weights from there on), in order."""
        self._windows = windows
        self._stretches = [_Stretch(0, _shares(weights), np.zeros(len(windows), np.int64))]
        for row, changed in changes:
            before = self._stretches[-1]
            turns = before.turns + _dealt(row - before.begin, before.shares)
            self._stretches.append(_Stretch(row, _shares(changed), turns))
        self._seeds = [_hash_text(f"{seed}/{source}") for source in range(len(windows))]
        self._block = functools.lru_cache(maxsize=8)(self._compute_block)

    def rows(self, begin: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(source, window) of rows [begin, begin + count): two int64 [R]."""
        blocks = range(begin // BLOCK, (begin + count - 1) // BLOCK + 1)
        sources_R, windows_R = (np.concatenate(pieces) for pieces in zip(*map(self._block, blocks), strict=True))
        skip = begin - blocks[0] * BLOCK
        return sources_R[skip : skip + count], windows_R[skip : skip + count]

    def _compute_block(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        sources_R, turns_R = np.empty((2, BLOCK), np.int64)
        begin, ends = block * BLOCK, [stretch.begin for stretch in self._stretches[1:]]
        for stretch, end in zip(self._stretches, [*ends, begin + BLOCK], strict=True):
            low, high = max(stretch.begin, begin), min(end, begin + BLOCK)
            if low < high:
                sources, turns = _deal(np.arange(low - stretch.begin, high - stretch.begin), stretch.shares)
                sources_R[low - begin : high - begin] = sources
                turns_R[low - begin : high - begin] = turns + stretch.turns[sources]
        windows_R = np.empty_like(turns_R)
        for source, (count, seed) in enumerate(zip(self._windows, self._seeds, strict=True)):
            own_R = sources_R == source
            windows_R[own_R] = shuffled(turns_R[own_R], count, seed)
        return sources_R, windows_R


class _Stretch(NamedTuple):
    """Rows from `begin` on; int64 [sources]: a source's rows in every `shares.sum()`, and the rows it had before."""

    begin: int
    shares: np.ndarray
    turns: np.ndarray


def _shares(weights: Sequence[float]) -> np.ndarray:
    exact = np.asarray(weights, np.float64) / np.sum(weights)
    return np.maximum(np.round(exact * _SHARE_UNITS), 1).astype(np.int64)


def _dealt(rows: int, shares: np.ndarray) -> np.ndarray:
    """int64 [sources]: how many of the first `rows` rows each source has."""
    cycles, rest = divmod(rows, int(shares.sum()))
    sources_R, _ = _deal(np.arange(rest), shares)
    return cycles * shares + np.bincount(sources_R, minlength=len(shares))


def _deal(rows_R: np.ndarray, shares: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The source of each row, and how many rows that source had before. Of any first k rows, a source has its share of
    k to within the number of sources. Source by source, a row goes to the one that the rest leaves it to.
    """
    remaining = int(shares.sum())
    cycles_R, now_R = np.divmod(rows_R, remaining)
    then_R = now_R + 1
    sources_R = np.full(len(rows_R), -1)
    turns_R = np.empty(len(rows_R), np.int64)
    for source, share in enumerate(shares):
        rest_now_R, rest_then_R = (edge_R * (remaining - share) // remaining for edge_R in (now_R, then_R))
        takes_R = (sources_R < 0) & (then_R - rest_then_R > now_R - rest_now_R)
        sources_R[takes_R] = source
        turns_R[takes_R] = (cycles_R * share + now_R - rest_now_R)[takes_R]
        now_R, then_R, remaining = rest_now_R, rest_then_R, remaining - share
    return sources_R, turns_R


def shuffled(turns_R: np.ndarray, count: int, seed: int) -> np.ndarray:
    """int64 [R]: the window of each turn, in a permutation of range(count) for every epoch of `count` turns."""
    epochs_R, windows_R = np.divmod(turns_R, count)
    keys_R = _mix(np.uint64(seed) + _mix(epochs_R.astype(np.uint64)))
    windows_R = _permute(windows_R, keys_R, count)
    while (outside_R := windows_R >= count).any():
        windows_R[outside_R] = _permute(windows_R[outside_R], keys_R[outside_R], count)
    return windows_R


def _permute(values_R: np.ndarray, keys_R: np.ndarray, count: int) -> np.ndarray:
    """A permutation of range(a * b), the smallest near-square grid that holds `count`."""
    a = int(np.ceil(np.sqrt(count)))
    b = -(-count // a)
    x_R, y_R = (v.astype(np.uint64) for v in np.divmod(values_R, b))
    for turn in range(_ROUNDS):
        round_R = keys_R + np.uint64(2 * turn + 1)
        x_R = (x_R + _mix(round_R ^ _mix(y_R)) % np.uint64(a)) % np.uint64(a)
        y_R = (y_R + _mix(~round_R ^ _mix(x_R)) % np.uint64(b)) % np.uint64(b)
    return (x_R * np.uint64(b) + y_R).astype(np.int64)


def _mix(values_R: np.ndarray) -> np.ndarray:
    """SplitMix64's output function on uint64 [R]."""
    values_R = values_R + np.uint64(0x9E3779B97F4A7C15)
    values_R = (values_R ^ (values_R >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values_R = (values_R ^ (values_R >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values_R ^ (values_R >> np.uint64(31))


def _hash_text(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")
