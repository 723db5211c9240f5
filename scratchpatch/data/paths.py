"""Paths on this machine, and URLs such as gs://bucket/folder that fsspec knows.

A path without `://` is read and written by the operating system; everything else by the file system that fsspec has for
its protocol (gs:// needs the package gcsfs, s3:// s3fs), with the credentials that it finds.
"""

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from scratchpatch import files as local_files, json_files, places
from scratchpatch.errors import UserError

_LOCAL = LocalFileSystem()


def is_url(path: str) -> bool:
    """Whether fsspec reads it."""
    return "://" in path


def local(path: str) -> str | None:
    """The path on this machine of a plain path or a file:// URL; None for another URL."""
    path = path.removeprefix("file://")
    return None if is_url(path) else path


def absolute(path: str) -> str:
    """The path without `~` and `..`; a URL as its file system writes it. Raises UserError as `system`, and where there
    is no home folder.
    """
    if is_url(path):
        files = system(path)
        return files.unstrip_protocol(files._strip_protocol(path))
    return os.path.abspath(places.expanded(path))


def join(folder: str, *names: str) -> str:
    """A path below a folder, by names of this package's own; those that a file holds go through `below`."""
    return "/".join([folder, *names]) if is_url(folder) else os.path.join(folder, *names)


def below(folder: str, name: str) -> str:
    """A path below a folder, by a name that a file holds. Raises ValueError where the name is no plain relative path,
    or leads through a link of this machine.
    """
    if not is_url(folder):
        return str(local_files.below(Path(folder), name))
    return join(folder, *local_files.plain_parts(folder, name))


def irregular(path: str) -> str | None:
    """What a path of this machine is, in words, where it is no regular file; None where it is one, or not seen."""
    path = local(path)
    try:
        return None if path is None else local_files.irregular(os.stat(path).st_mode)
    except OSError:  # reading it says what is wrong
        return None


def system(path: str) -> fsspec.AbstractFileSystem:
    """The file system of a path or URL. Raises UserError where it is unknown, or its package is missing."""
    if not is_url(path):
        return _LOCAL
    try:
        # A listing that is kept would not show what other processes write.
        return fsspec.core.url_to_fs(path, use_listings_cache=False)[0]
    except (ImportError, ValueError) as error:
        raise UserError(f"{path}: {error}") from error


def is_file(path: str) -> bool:
    return system(path).isfile(path)


def is_folder(path: str) -> bool:
    return system(path).isdir(path)


def size(path: str) -> int:
    """Bytes of a file. Raises OSError."""
    return system(path).size(path)


def sizes(folder: str) -> dict[str, int]:
    """Name to bytes of the files in a folder, by one listing. Raises OSError."""
    try:
        entries = system(folder).ls(folder, detail=True)
    except FileNotFoundError:
        if not is_url(folder):
            raise
        entries = []  # a bucket has no empty folders
    # A link to a file of this machine is of type "other", and its size that of the file.
    return {entry["name"].rpartition("/")[2]: entry["size"] for entry in entries if entry["type"] != "directory"}


def state(path: str) -> list:
    """What changes where a file changes; JSON has it. Raises OSError."""
    if is_url(path):
        return [system(path).ukey(path)]
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns, os.access(path, os.R_OK)]


def changed(path: str) -> list[int]:
    """What no program can keep as it was where it changes a file of this machine; empty for a URL. Raises OSError."""
    if is_url(path):
        return []
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino]


def open_read(path: str) -> BinaryIO:
    """The file opened for its bytes; of this machine, only a regular one. Raises OSError."""
    here = local(path)
    return system(path).open(path, "rb") if here is None else local_files.open_regular(here)


def size_and_checksum(path: str, seen: Callable[[bytes], None] | None = None) -> list[int]:
    """Bytes and CRC-32 of a file; `seen` is called with each piece that is read. Raises OSError."""
    with open_read(path) as file:
        return local_files.size_and_checksum(file, seen)


def read_json(path: str, shape: Any, constants: bool = False) -> Any:
    """The value of a JSON file, see `json_files`. Raises OSError, or Malformed, which names the file."""
    return json_files.read(path, shape, constants, open_read)


def write_text(path: str, text: str) -> None:
    """Write a file, such that readers see all of it or what was there before. Raises OSError."""
    if is_url(path):
        system(path).pipe_file(path, text.encode())
        return
    local_files.replace_text(Path(path), text)


def make_folder(path: str) -> None:
    """Make a folder and those above it. Raises OSError."""
    system(path).makedirs(path, exist_ok=True)


def publish(local: str, path: str) -> None:
    """Move a finished local file to its place, all of it or nothing. Raises OSError. On this machine it is synced
    first, so that a power cut leaves no file of zeros under the name; `local` is in the same file system.
    """
    if is_url(path):
        system(path).put_file(local, path)
        os.remove(local)
        return
    with open(local, "rb") as file:
        os.fsync(file.fileno())
    os.replace(local, path)


def remove(folder: str) -> None:
    """Remove a folder and what is in it, if it is there. Raises OSError."""
    files = system(folder)
    if files.exists(folder):
        files.rm(folder, recursive=True)


def fetched(path: str, folder: Path) -> str:
    """The path of a file on this machine: its own, or that of a copy in `folder`. Raises OSError."""
    if not is_url(path):
        return path
    copy = folder / path.rpartition("/")[2]
    if not copy.exists():
        folder.mkdir(parents=True, exist_ok=True)
        local_files.sweep(copy)
        partial = copy.with_name(f"{copy.name}.{uuid.uuid4().hex}.tmp")
        try:
            system(path).get_file(path, str(partial))
            os.replace(partial, copy)
        finally:
            partial.unlink(missing_ok=True)
    return str(copy)
