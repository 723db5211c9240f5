"""Paths on this machine, and URLs such as gs://bucket/folder that fsspec knows.

A path without `://` is read and written by the operating system; everything
else by the file system that fsspec has for its protocol (gs:// needs the
package gcsfs, s3:// s3fs), with the credentials that it finds.
"""

from __future__ import annotations

import contextlib
import glob as system_glob
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from fsspec.implementations.local import LocalFileSystem

from scratchpatch import files as local_files
from scratchpatch import json_files, places
from scratchpatch.errors import UserError

_FILE = "file://"
# A copy that was begun so long ago has no writer any more.
_ABANDONED_SECONDS = 86_400


def is_url(path: str) -> bool:
    """Whether fsspec reads it."""
    return "://" in path


def absolute(path: str) -> str:
    """The path without `~` and `..`; a URL as its file system writes it. Raises UserError as `system` does, and where there is no home."""
    if is_url(path):
        files = system(path)
        return files.unstrip_protocol(files._strip_protocol(path))
    return os.path.abspath(places.expanded(path))


def join(folder: str, *names: str) -> str:
    """A path below a folder, by names of this package's own; those that a file holds go through `below`."""
    return "/".join([folder, *names]) if is_url(folder) else os.path.join(folder, *names)


def below(folder: str, name: str) -> str:
    """A path below a folder, by a name that a file holds.

    Raises ValueError where the name is no plain relative path, or leads through a link of this machine.
    """
    if not is_url(folder):
        return str(local_files.below(Path(folder), name))
    return join(folder, *local_files.plain_parts(folder, name))


def irregular(path: str) -> str | None:
    """What a path of this machine is, in words, where it is no regular file; None where it is one, a URL, or not seen."""
    path = path.removeprefix(_FILE)
    if is_url(path):
        return None
    try:
        return local_files.irregular(os.stat(path).st_mode)
    except OSError:  # reading it says what is wrong
        return None


def system(url: str) -> fsspec.AbstractFileSystem:
    """The file system of a URL. Raises UserError where it is unknown, or its package is missing."""
    try:
        # A listing that is kept would not show what other processes write.
        return fsspec.core.url_to_fs(url, use_listings_cache=False)[0]
    except (ImportError, ValueError) as error:
        raise UserError(f"{url}: {error}") from error


def glob(pattern: str) -> list[str]:
    """The files of a pattern, sorted. Raises OSError.

    `**` crosses folders, also through links, each real folder once: under its own name where it has one below the
    pattern's fixed part, else under the first link's. So links in circles end.
    """
    if not is_url(pattern):
        return sorted({path for path in _matches(pattern) if not os.path.isdir(path)})
    files = system(pattern)
    if isinstance(files, LocalFileSystem):
        return [files.unstrip_protocol(path) for path in glob(files._strip_protocol(pattern))]
    found = files.glob(pattern, detail=True)
    return sorted(files.unstrip_protocol(path) for path, about in found.items() if about["type"] == "file")


def _matches(pattern: str) -> Iterator[str]:
    """The paths of a pattern of this machine, some perhaps more than once."""
    parts = pattern.split(os.sep)
    if "**" not in parts:
        yield from system_glob.glob(pattern)
        return
    at = parts.index("**")
    head, tail = os.sep.join(parts[:at]) or (os.sep if at else os.curdir), parts[at + 1 :]
    tops = system_glob.glob(head) if system_glob.has_magic(head) else [head]
    for folder in _folders([top for top in tops if os.path.isdir(top)]):
        yield from _matches(os.path.join(system_glob.escape(folder), *(tail or ["*"])))


def _folders(tops: list[str]) -> Iterator[str]:
    """The folders from these down, without those whose names begin with a dot, each real one once."""
    seen, tops = set(), sorted(tops, key=lambda top: (os.path.islink(top), top))
    while tops:
        links = []
        for top in tops:
            ahead = [top]
            while ahead:
                folder = ahead.pop()
                try:
                    about = os.stat(folder)
                    if (about.st_dev, about.st_ino) in seen:
                        continue
                    seen.add((about.st_dev, about.st_ino))
                    entries = sorted(os.scandir(folder), key=lambda entry: entry.name, reverse=True)
                except OSError:  # as glob does: what may not be seen does not match
                    continue
                yield folder
                below = [entry for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
                ahead += [entry.path for entry in below if not entry.is_symlink()]
                links += [entry.path for entry in below if entry.is_symlink()]
        # A link to what is found under its own name is no other folder, so links come last.
        tops = sorted(links)


def distinct(files: list[str]) -> list[str]:
    """The files in their order, each real one once: under the name with the fewest links on its way, else the first."""
    if not files or is_url(files[0]) and not isinstance(system(files[0]), LocalFileSystem):
        return files
    names: dict[object, list[str]] = {}
    for path in files:
        try:
            about = os.stat(path.removeprefix("file://"))
            names.setdefault((about.st_dev, about.st_ino), []).append(path)
        except OSError:  # reading it says what is wrong
            names.setdefault(path, []).append(path)
    kept = {same[0] if len(same) == 1 else min(same, key=lambda path: (_links(path), path)) for same in names.values()}
    return [path for path in files if path in kept]


def _links(path: str) -> int:
    """How many of the folders on the way to a file, and the file, are links."""
    path, count = path.removeprefix("file://"), 0
    while path != (above := os.path.dirname(path)):
        count, path = count + os.path.islink(path), above
    return count


def is_file(path: str) -> bool:
    """Whether a file is there."""
    return system(path).isfile(path) if is_url(path) else os.path.isfile(path)


def is_folder(path: str) -> bool:
    """Whether a folder is there."""
    return system(path).isdir(path) if is_url(path) else os.path.isdir(path)


def size(path: str) -> int:
    """Bytes of a file. Raises OSError."""
    return system(path).size(path) if is_url(path) else os.path.getsize(path)


def sizes(folder: str) -> dict[str, int]:
    """Name to bytes of the files in a folder, by one listing. Raises OSError."""
    if is_url(folder):
        try:
            found = system(folder).ls(folder, detail=True)
        except FileNotFoundError:  # a bucket has no empty folders
            found = []
        return {about["name"].rpartition("/")[2]: about["size"] for about in found if about["type"] == "file"}
    with os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries if entry.is_file()}


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
    path = path.removeprefix(_FILE)
    return system(path).open(path, "rb") if is_url(path) else local_files.open_regular(path)


def read_json(path: str, shape: Any) -> Any:
    """The value of a JSON file, see `json_files`. Raises OSError, or Malformed, which names the file."""
    if not is_url(path):
        return json_files.read(path, shape)
    with open_read(path) as file:
        text = file.read()
    try:
        return json_files.parse(text, shape)
    except json_files.Malformed as error:
        raise json_files.Malformed(f"{path}: {error}") from None


def write_text(path: str, text: str) -> None:
    """Write a file, such that readers see all of it or what was there before. Raises OSError."""
    if is_url(path):
        system(path).pipe_file(path, text.encode())
        return
    local_files.replace_text(Path(path), text)


def make_folder(path: str) -> None:
    """Make a folder and those above it. Raises OSError."""
    if is_url(path):
        system(path).makedirs(path, exist_ok=True)
    else:
        os.makedirs(path, exist_ok=True)


def publish(local: str, path: str) -> None:
    """Move a finished local file to its place, all of it or nothing. Raises OSError.

    On this machine it is synced first, so that a power cut leaves no file of zeros under the name; `local` is in
    the same file system.
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
    files = system(folder) if is_url(folder) else fsspec.filesystem("file")
    if files.exists(folder):
        files.rm(folder, recursive=True)


def fetched(path: str, folder: Path) -> str:
    """The path of a file on this machine: its own, or that of a copy in `folder`. Raises OSError."""
    if not is_url(path):
        return path
    copy = folder / path.rpartition("/")[2]
    if not copy.exists():
        folder.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        partial = folder / f".{uuid.uuid4().hex}"
        try:
            system(path).get_file(path, str(partial))
            os.replace(partial, copy)
        finally:
            partial.unlink(missing_ok=True)
    return str(copy)


def _sweep(folder: Path) -> None:
    """Remove copies that killed processes have begun."""
    with contextlib.suppress(OSError):
        for partial in folder.glob(".*"):
            if time.time() - partial.stat().st_mtime > _ABANDONED_SECONDS:
                partial.unlink(missing_ok=True)
