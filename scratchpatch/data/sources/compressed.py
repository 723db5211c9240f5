"""Files opened for their bytes: a compressed file, told by its first bytes whatever its name, is decompressed.

gzip, zstd, bz2 and xz. A file may hold several members one after the other, and is whole only if its last member is;
skippable frames of zstd hold no bytes. However much a piece of a file unpacks to, some megabytes of it are in memory.
The file objects of gzip, bz2, lzma and zstandard do less: they lose what follows padding, or end a cut file silently.
"""

import bz2
import io
import itertools
import lzma
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

from scratchpatch.data import paths
from scratchpatch.data.extras import need
from scratchpatch.data.records import TooLarge

# Bytes that tell what a file is: no more than the smallest frame of zstd has.
_HEAD = 9
# Compressed bytes that are read at a time, and bytes that are unpacked at a time.
_PIECE = 1 << 16
_UNPACKED = 1 << 20
# zstandard cannot be told how many bytes to unpack. A block is 128 KiB at most and takes four bytes or more, so these
# unpack to 32 MiB at most.
_ZSTD_PIECE = 1 << 10
# Text that people write is packed to a tenth, or a fiftieth where it repeats itself.
_USUAL_RATIO = 100
# The window of `zstd --ultra -22 --long=31`, which is the largest.
_LARGEST_WINDOW = 1 << 31


def _zstd(path: str) -> Any:
    zstandard = need("zstandard", "data", f"reading {path}")
    return zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj()


class _Format(NamedTuple):
    name: str
    suffixes: tuple[str, ...]  # of the files' names
    head: bytes  # a pattern of a file's first bytes; no member is shorter than _HEAD
    member: Callable[[str], Any]  # makes a decompressor of one member; takes the file's path, for an error
    padded: bool = False  # whether zeros may stand between members and after the last
    piece: int = _PIECE  # compressed bytes that are read at a time
    most: tuple[int, ...] = (_UNPACKED,)  # what tells `decompress` how many bytes to give


_FORMATS = (
    _Format("gzip", (".gz",), rb"\x1f\x8b\x08[\x00-\x1f]", lambda path: zlib.decompressobj(wbits=31), padded=True),
    _Format("zstd", (".zst", ".zstd"), rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18", _zstd, False, _ZSTD_PIECE, ()),
    # After the name and the level a block begins, or a file without blocks ends.
    _Format("bz2", (".bz2",), rb"BZh[1-9](1AY&S|\x17rE8P)", lambda path: bz2.BZ2Decompressor()),
    _Format("xz", (".xz",), rb"\xfd7zXZ\0", lambda path: lzma.LZMADecompressor(lzma.FORMAT_XZ), padded=True),
)


def open_bytes(path: str, most: int | None = None) -> BinaryIO:
    """The file opened for its bytes, decompressed where it is compressed.

    `most` is how many bytes it may unpack to, if that is more than 100 times its own; None: any number. Raises OSError
    where it cannot be opened; EOFError, here or while it is read, where it is not a whole compressed file, or not one
    although its name says so; TooLarge, while it is read, where it unpacks to more than it may.
    """
    file = paths.open_read(path)
    file = file if isinstance(file, io.BufferedIOBase) else io.BufferedReader(file, _PIECE)
    try:
        head = file.read(_HEAD)
        form = next((form for form in _FORMATS if len(head) == _HEAD and re.match(form.head, head)), None)
        for named in _FORMATS:
            if head and not form and path.lower().endswith(named.suffixes):
                raise EOFError(f"its name says {named.name}, its first bytes do not")
        if not form and file.seekable():
            file.seek(0)
            return file
        pieces = itertools.chain([head], iter(lambda: file.read(form.piece if form else _PIECE), b""))
        return io.BufferedReader(_Pieces(_unpacked(pieces, form, path, most) if form else pieces, file), 1 << 18)
    except BaseException:
        file.close()
        raise


class _Pieces(io.RawIOBase):
    """The bytes of an iterator; closes the file that they come from."""

    def __init__(self, pieces: Iterator[bytes], file: BinaryIO):
        self.pieces = pieces
        self._file = file
        self._unread = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, into) -> int:
        while not self._unread:
            piece = next(self.pieces, None)
            if piece is None:
                return 0
            self._unread = memoryview(piece)
        count = min(len(into), len(self._unread))
        into[:count] = self._unread[:count]
        self._unread = self._unread[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _unpacked(pieces: Iterator[bytes], form: _Format, path: str, most: int | None) -> Iterator[bytes]:
    """The decompressed members of a file, in pieces. Raises EOFError and TooLarge as `open_bytes` says."""
    packed_bytes = unpacked_bytes = 0
    member = None
    for packed in pieces:
        packed_bytes += len(packed)
        while packed := packed.lstrip(b"\0") if member is None and form.padded else packed:
            member = member or form.member(path)
            for piece in _decompressed(member, packed, form):
                unpacked_bytes += len(piece)
                if most is not None and unpacked_bytes > max(most, _USUAL_RATIO * packed_bytes):
                    raise TooLarge(most)
                yield piece
            packed = member.unused_data
            member = None if member.eof else member
    if member is not None:
        raise EOFError(f"it ends within what {form.name} packed")


def _decompressed(member: Any, packed: bytes, form: _Format) -> Iterator[bytes]:
    """All that a decompressor makes of some bytes, a piece at a time. Raises EOFError where they are damaged."""
    while True:
        try:
            piece = member.decompress(packed, *form.most)
        except Exception as error:  # each library has its own kinds
            raise EOFError(f"{form.name}: {error}") from error
        yield piece
        # zlib gives back the bytes that it has not unpacked yet, bz2 and lzma keep them.
        packed = getattr(member, "unconsumed_tail", b"")
        if member.eof or not packed and getattr(member, "needs_input", True):
            return
