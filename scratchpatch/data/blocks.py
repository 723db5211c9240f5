"""The files of a prepared folder, and where in them a position of the stream lies.

    meta.json                             sizes, counts and checksums (see `preparation.folder`)
    train-00003-of-00008.array_record     blocks of 65,536 positions, uint8; a placeholder 0 where a BOS stands
    train-00003-of-00008.starts           where the BOS stand: uint32 [blocks + 1], how many before each block;
                                          uint16 [documents], their places in their blocks

The shards of a split, one after the other, are one stream; each begins with a
BOS, and its last block is filled up with zeros that the stream does not have.

A shard is an ordinary ArrayRecord file: of one uncompressed record per chunk,
so that a block's bytes lie in it as they are, at a place that arithmetic gives.
It can be memory-mapped, or read by ranges of bytes from a bucket; a window
costs its own bytes and no whole block. What interrupts the bytes are the
headers of the file format (Riegeli): 24 bytes at every multiple of 65,536, 40
at the file's beginning, and 45 before each record. Every shard is read back so
when it is written (`preparation.shards`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np

BLOCK = 1 << 16
WRITER_OPTIONS = "group_size:1,uncompressed"
RECORDS, STARTS = ".array_record", ".starts"
FIRST, PLACE = np.dtype("<u4"), np.dtype("<u2")
# Blocks whose checksum is computed together.
_CHECKED = 64
_PAGE, _PAGE_HEADER, _FILE_HEADER, _RECORD_HEADER = 1 << 16, 24, 40, 45


def pieces(start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Where positions [start, end) of a shard lie in its file: (position, begin, length), in order."""
    while start < end:
        block, within = divmod(start, BLOCK)
        # Counted without the headers of pages.
        plain = _FILE_HEADER + block * (_RECORD_HEADER + BLOCK) + _RECORD_HEADER + within
        page, offset = divmod(plain, _PAGE - _PAGE_HEADER)
        length = min(end - start, BLOCK - within, _PAGE - _PAGE_HEADER - offset)
        yield start, page * _PAGE + _PAGE_HEADER + offset, length
        start += length


def checksum(data: np.ndarray, count: int) -> int:
    """CRC-32 of the positions of all blocks in a shard's file, uint8."""
    found = 0
    for first in range(0, count, _CHECKED):
        for _, begin, length in pieces(first * BLOCK, min(first + _CHECKED, count) * BLOCK):
            found = zlib.crc32(data[begin : begin + length], found)
    return found


def pack_starts(starts: np.ndarray, blocks: int) -> bytes:
    """The .starts file of a shard whose BOS stand at `starts`, int64 [documents]."""
    first = np.searchsorted(starts, np.arange(blocks + 1) * BLOCK)
    return first.astype(FIRST).tobytes() + (starts % BLOCK).astype(PLACE).tobytes()


class Starts:
    """The BOS of a shard, from its .starts file."""

    def __init__(self, data: np.ndarray, blocks: int):
        """`data`: uint8, the file."""
        edge = (blocks + 1) * FIRST.itemsize
        self._first, self._place = data[:edge].view(FIRST), data[edge:].view(PLACE)

    def between(self, start: int, end: int) -> np.ndarray:
        """int64: those in positions [start, end), in order."""
        low, high = start // BLOCK, -(-end // BLOCK)
        first, last = int(self._first[low]), int(self._first[high])
        found = self._place[first:last].astype(np.int64)
        if high - low == 1:
            found += low * BLOCK
        else:
            counts = np.diff(self._first[low : high + 1].astype(np.int64))
            found += np.repeat(np.arange(low, high) * BLOCK, counts)
        low, high = np.searchsorted(found, (start, end))
        return found[low:high]
