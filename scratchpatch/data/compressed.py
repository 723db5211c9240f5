"""Files opened for their bytes: compressed ones, told by their first bytes whatever they are called, decompressed.

gzip, zstd, bz2 and xz. A file may hold several members one after the other,
and is whole only if its last one is; skippable frames of zstd hold no bytes.
However much a piece of a file unpacks to, some megabytes of it are in memory.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import Any, BinaryIO, NamedTuple

from scratchpatch.data import paths
from scratchpatch.data.extras import need

# Enough of a file to tell what it is (the least frame of zstd), and compressed bytes read at a time.
_HEAD, _PIECE = 9, 1 << 16
# Bytes that are unpacked at a time.
_UNPACKED = 1 << 20
# zstandard cannot be told how many: a block is 128 KiB at most and takes four bytes or more, so these give 32 MiB at most.
_ZSTD_PIECE = 1 << 10
# Text that people write is packed to a tenth, or a fiftieth where it repeats itself.
_USUAL_RATIO = 100
# As `zstd --ultra -22 --long=31` writes.
_LARGEST_WINDOW = 1 << 31


class _Format(NamedTuple):
    """One way to compress.

    Attributes:
        name: as people know it.
        suffixes: of the files' names.
        begins: whether a file of these first bytes is of this format; no member is shorter than _HEAD.
        start: a decompressor of one member: decompress(bytes, most), needs_input, eof, unused_data.
        padded: whether zeros may stand between members and after the last.
    """

    name: str
    suffixes: tuple[str, ...]
    begins: Callable[[bytes], bool]
    start: Callable[[str], Any]
    padded: bool


class TooLarge(Exception):
    """A file unpacks to more than it may; its argument is how many bytes that is."""


class _Gzip:
    """zlib with the interface of bz2 and lzma."""

    def __init__(self):
        self._member = zlib.decompressobj(wbits=31)

    def decompress(self, piece: bytes, most: int) -> bytes:
        return self._member.decompress(self._member.unconsumed_tail + piece, most)

    @property
    def needs_input(self) -> bool:
        return not self._member.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._member.eof

    @property
    def unused_data(self) -> bytes:
        return self._member.unused_data


class _Zstandard:
    """zstandard with the interface of bz2 and lzma."""

    def __init__(self, path: str):
        module = need("zstandard", "data", f"reading {path}")
        self._member = module.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj()
        self._unread = memoryview(b"")

    def decompress(self, piece: bytes, most: int) -> bytes:
        if piece:
            self._unread = memoryview(piece)
        found = []
        size = 0
        while self._unread and size < most and not self._member.eof:
            found.append(self._member.decompress(self._unread[:_ZSTD_PIECE]))
            self._unread = self._unread[_ZSTD_PIECE:]
            size += len(found[-1])
        return found[0] if len(found) == 1 else b"".join(found)

    @property
    def needs_input(self) -> bool:
        return not self._unread

    @property
    def eof(self) -> bool:
        return self._member.eof

    @property
    def unused_data(self) -> bytes:
        return self._member.unused_data + self._unread


_FORMATS = (
    _Format("gzip", (".gz",), lambda head: head[:3] == b"\x1f\x8b\x08" and head[3] < 0x20, lambda _: _Gzip(), True),
    _Format(
        "zstd",
        (".zst", ".zstd"),
        lambda head: head[:4] == b"\x28\xb5\x2f\xfd" or head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F,
        _Zstandard,
        False,
    ),
    _Format(
        "bz2",
        (".bz2",),
        # The next begin a block, or end a file without any.
        lambda head: head[:3] == b"BZh" and head[3:4] in b"123456789" and head[4:] in (b"1AY&S", b"\x17rE8P"),
        lambda _: bz2.BZ2Decompressor(),
        False,
    ),
    _Format("xz", (".xz",), lambda head: head.startswith(b"\xfd7zXZ\0"), lambda _: lzma.LZMADecompressor(lzma.FORMAT_XZ), True),
)


def open_bytes(path: str, most: int | None = None) -> BinaryIO:
    """The file opened for its bytes, decompressed where it is compressed.

    Args:
        most: bytes that it may unpack to, if that is more than 100 times its own; None: any number.

    Raises:
        OSError: it cannot be opened. EOFError, here or while it is read: it is not a whole compressed file, or not one
            although its name says so. TooLarge, while it is read: it unpacks to more than it may.
    """
    file = paths.open_read(path)
    try:
        head = file.read(_HEAD)
        found = next((each for each in _FORMATS if len(head) == _HEAD and each.begins(head)), None)
        if found:
            return io.BufferedReader(_Members(head, file, found, path, most), 1 << 18)
        named = next((each for each in _FORMATS if path.lower().endswith(each.suffixes)), None)
        if named and head:
            raise EOFError(f"its name says {named.name}, its first bytes do not")
        if file.seekable():
            file.seek(0)
            if isinstance(file, io.BufferedIOBase):
                return file
            head = b""
        return io.BufferedReader(_Joined(head, file), 1 << 18)
    except BaseException:
        file.close()
        raise


class _Joined(io.RawIOBase):
    """What was read of a file already, and its rest."""

    def __init__(self, head: bytes, file: BinaryIO):
        self._ready, self._file = memoryview(head), file

    def readable(self) -> bool:
        return True

    def readinto(self, into) -> int:
        if not self._ready:
            self._ready = memoryview(self._next(len(into)))
        count = min(len(into), len(self._ready))
        into[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def _next(self, size: int) -> bytes:
        """More bytes, about so many; none at the end."""
        return self._file.read(size)

    def close(self) -> None:
        self._file.close()
        super().close()


class _Members(_Joined):
    """The decompressed members of a file, one after the other; a file that ends within one raises EOFError."""

    def __init__(self, head: bytes, file: BinaryIO, form: _Format, path: str, most: int | None):
        super().__init__(b"", file)
        self._unread, self._format, self._path = head, form, path
        self._member = None
        self._most, self._read, self._unpacked = most, len(head), 0

    def _next(self, size: int) -> bytes:
        while True:
            piece = b""
            if self._member is None or self._member.needs_input:
                piece = self._unread or self._file.read(_PIECE)
                self._read += 0 if self._unread else len(piece)
                self._unread = b""
                if not piece:
                    if self._member is not None:
                        raise EOFError(f"it ends within what {self._format.name} packed")
                    return b""
            if self._member is None:
                piece = piece.lstrip(b"\0") if self._format.padded else piece
                if not piece:
                    continue
                self._member = self._format.start(self._path)
            try:
                found = self._member.decompress(piece, _UNPACKED)
            except Exception as error:  # each library has its own kinds
                raise EOFError(f"{self._format.name}: {error}") from error
            if self._member.eof:
                self._unread, self._member = self._member.unused_data, None
            if found:
                self._unpacked += len(found)
                if self._most is not None and self._unpacked > max(self._most, _USUAL_RATIO * self._read):
                    raise TooLarge(self._most)
                return found
