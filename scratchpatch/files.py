"""Files of this machine as every part of the package opens and writes them. Free of JAX.

A name that a file holds may have been written by anyone: `below` is the one place that makes a path of such a name.
Only regular files are opened to be read (`open_regular`): a pipe would wait for a writer for ever, a device may have no
end.
"""

import contextlib
import errno
import hashlib
import os
import stat
import time
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_KINDS = {
    stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
}
_CHUNK_BYTES = 1 << 20
# A temporary file as old as this has no writer any more.
_ABANDONED_SECONDS = 3600


def below(folder: Path, name: str) -> Path:
    """The path of something in a folder, by a name that some file holds, such as 'state/params/manifest.ocdbt'. Raises
    ValueError where the name is no plain relative path, see `plain_parts`, or leads through a link.
    """
    path = folder
    for part in plain_parts(folder, name):
        path = path / part
        if os.path.islink(path):  # Unlike Path.is_symlink, this takes names that are too long for the disk.
            raise ValueError(f"{name!r} leads through the link {path}, which is not followed")
    return path


def plain_parts(folder: object, name: str) -> list[str]:
    """The parts of a plain relative name, which are joined by '/'; `folder` is for the message. Raises ValueError where
    the name is absolute, or has a part that is empty, '.', '..', or holds NUL or a backslash.
    """
    parts = name.split("/") if isinstance(name, str) else []
    if not parts or any(part in ("", ".", "..") or "\0" in part or "\\" in part for part in parts):
        raise ValueError(f"{name!r} is no plain relative path below {folder}")
    return parts


def irregular(mode: int) -> str | None:
    """What a file of this st_mode is, in words; None where it is a regular file."""
    kind = stat.S_IFMT(mode)
    return None if kind == stat.S_IFREG else _KINDS.get(kind, "something else")


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """A regular file of this machine, opened for its bytes; links to one are followed. Raises OSError where it cannot
    be opened, or is no regular file (strerror says what it is).
    """
    # Without O_NONBLOCK, opening a pipe waits for its writer.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if what := irregular(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, f"it is {what}, and only regular files are read", os.fspath(path))
    os.set_blocking(descriptor, True)
    return open(descriptor, "rb")


def size_and_checksum(file: BinaryIO, seen: Callable[[bytes], None] | None = None) -> list[int]:
    """Bytes and CRC-32 of the rest of an open file, read in pieces; `seen` is called with each. Raises OSError."""
    size = checksum = 0
    while chunk := file.read(_CHUNK_BYTES):
        size += len(chunk)
        checksum = zlib.crc32(chunk, checksum)
        if seen is not None:
            seen(chunk)
    return [size, checksum]


def digest(contents: bytes) -> str:
    """32 hexadecimal digits that tell these contents from any other."""
    return hashlib.blake2b(contents, digest_size=16).hexdigest()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write in the place of another one, such that readers, and a kill at any moment, see the old one or the
    new one; of several writers at once the last one's stays, whole. Raises OSError with this path; the old file is then
    still there, as it is where the context is left by an error.
    """
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise
    sweep(path)


def replace_text(path: Path, text: str) -> None:
    """Write a text in the place of a file, as `replacing` does."""
    with replacing(path) as file:
        file.write(text.encode())


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write a file that a user named, through links: replace a regular file, write into a pipe or a device. Raises
    OSError where it cannot be written.
    """
    # /dev/stdout may lead through links to a regular file that the shell has opened.
    if os.path.abspath(path).startswith(("/dev/", "/proc/")) or os.path.exists(path) and not os.path.isfile(path):
        Path(path).write_text(text, encoding="utf-8")
    else:
        replace_text(Path(os.path.realpath(path)), text)


def whole_lines(file: int) -> None:
    """Cut a file, open for reading and writing, behind its last newline. Raises OSError."""
    size = end = os.fstat(file).st_size
    while end:
        begin = max(end - _CHUNK_BYTES, 0)
        newline = os.pread(file, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            end = begin + newline + 1
            break
        end = begin
    if end < size:
        os.ftruncate(file, end)


def sweep(path: Path) -> None:
    """Remove what killed writers of this file have left beside it: FILE.*.tmp."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(path.parent):
            if entry.name.startswith(f"{path.name}.") and entry.name.endswith(".tmp"):
                if time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED_SECONDS:
                    os.unlink(entry.path)
