"""What a stored step consists of, so that damage is found before anything reads it.

    STEP/state/        files of any kind
    STEP/about.json    {"about": {..., "files": {path under state/: [bytes, CRC-32]}}, "checksum": CRC-32 of "about"}
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

from etils import epath

from scratchpatch.files import replace_text

STATE = "state"
_ABOUT = "about.json"
_CHUNK_BYTES = 1 << 20
# What says that a file is not there; of any other error of a disk or a network, the next try may know nothing.
_GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_PAUSES = (0.2, 1.0)
T = TypeVar("T")
# Path under state/ to size and CRC-32.
Files = dict[str, list[int]]


class Damaged(Exception):
    """A stored step that cannot be trusted; says why."""


class Unreadable(Exception):
    """A stored step that could not be read, in several tries, which proves nothing about it; says why."""


def files(step: Path, chosen: Callable[[str], bool]) -> Files:
    """Size and checksum of the files under STEP/state whose names are chosen. Raises OSError."""
    state = step / STATE
    names = sorted(str(path.relative_to(state)) for path in state.rglob("*") if path.is_file())
    return {name: _size_and_checksum(state / name) for name in names if chosen(name)}


def write(step: Path, about: dict[str, Any], known: Files | None = None) -> None:
    """Describe the folder STEP/state: `about` (plain JSON values) and its files. Raises OSError.

    known: of the files, those that others have already described; they are not read.
    """
    known = known or {}
    found = known | files(step, lambda name: name not in known)
    replace_text(step / _ABOUT, _sealed(about | {"files": dict(sorted(found.items()))}))


def read(step: Path) -> dict[str, Any]:
    """What `write` was given, and "files". Raises Damaged or Unreadable."""
    try:
        text = _patiently(_ABOUT, (step / _ABOUT).read_text)
        about = json.loads(text)["about"]
    except (ValueError, TypeError, KeyError) as error:
        raise Damaged(f"{_ABOUT} cannot be read: {first_line(error)}") from error
    if _sealed(about) != text:
        raise Damaged(f"the checksum of {_ABOUT} is wrong")
    return about


def parts(step: Path) -> Iterator[Path]:
    """The files that a step consists of, about.json first: it says what the others are. Raises Damaged or Unreadable."""
    yield step / _ABOUT
    yield from (step / STATE / name for name in read(step)["files"])


def revoke(step: Path) -> None:
    """Take away what makes a step whole, before its files go."""
    (step / _ABOUT).unlink(missing_ok=True)


def finished(step: Path) -> float:
    """When `write` was done, in seconds since the epoch. Raises OSError."""
    path = step / _ABOUT
    # For a file of this machine, epath also looks its owner's name up, and not every owner has one.
    return epath.Path(path).stat().mtime if "://" in str(path) else os.stat(path).st_mtime


def check(
    step: Path, about: dict[str, Any], skipped: Collection[str], seen: Callable[[int], None] | None = None
) -> None:
    """Raise Damaged unless the files are those that were written, Unreadable where that cannot be told.

    about: from `read`.
    skipped: folders directly under STEP/state that are not looked at.
    seen: called with the number of bytes of every piece that was read, for who waits.
    """
    count = None if seen is None else lambda chunk: seen(len(chunk))
    for name, (size, checksum) in about["files"].items():
        if name.split("/")[0] in skipped:
            continue
        path = step / STATE / name
        size_now, checksum_now = _patiently(f"{STATE}/{name}", lambda path=path: _size_and_checksum(path, count))
        if size_now != size:
            raise Damaged(f"{STATE}/{name} holds {size_now} bytes instead of {size}")
        if checksum_now != checksum:
            raise Damaged(f"the checksum of {STATE}/{name} is wrong")


def copy(step: Path, into: Path, moved: Callable[[int], None]) -> None:
    """Copy a step, about.json last, and read the copy again: every byte of it is then known to be what was written.

    step, into: folders of any file system that etils.epath knows; `into` is new.
    moved: called with the number of bytes of every piece that was copied or read.

    Raises:
      Damaged: the step is, or the copy came out so. Unreadable: it cannot be read. OSError: the copy cannot be written.
    """
    about = read(step)
    for name, wanted in about["files"].items():
        target = into / STATE / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as out:

            def put(chunk: bytes, out=out) -> None:
                out.write(chunk)
                moved(len(chunk))

            try:
                # Not patiently: a second try would write twice.
                found = _size_and_checksum(step / STATE / name, put)
            except _GONE as error:
                raise Damaged(f"{STATE}/{name} cannot be read: {error.strerror or first_line(error)}") from error
        if found != wanted:
            raise Damaged(f"the size or checksum of {STATE}/{name} is wrong")
    (into / _ABOUT).write_text(_sealed(about))
    check(into, read(into), skipped=(), seen=moved)


def first_line(error: BaseException) -> str:
    """An error as one line of at most 300 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _sealed(about: dict[str, Any]) -> str:
    text = json.dumps(about, sort_keys=True)
    return json.dumps({"about": about, "checksum": zlib.crc32(text.encode())}, sort_keys=True)


def _patiently(name: str, get: Callable[[], T]) -> T:
    """What `get` reads, tried again after an error that may pass. Raises Damaged where the file is gone, or Unreadable."""
    pauses = iter(_PAUSES)
    while True:
        try:
            return get()
        except _GONE as error:
            raise Damaged(f"{name} cannot be read: {error.strerror or first_line(error)}") from error
        except OSError as error:
            pause = next(pauses, None)
            if pause is None:
                raise Unreadable(f"{name} cannot be read: {error.strerror or first_line(error)}") from error
            time.sleep(pause)


def _size_and_checksum(path: Path, seen: Callable[[bytes], None] | None = None) -> list[int]:
    size = checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            size += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
            if seen is not None:
                seen(chunk)
    return [size, checksum]
