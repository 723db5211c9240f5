"""What a stored step consists of, so that damage is found before anything reads it.

    STEP/state/        files of any kind
    STEP/about.json    {"about": {..., "files": {path under state/: [bytes, CRC-32]}}, "checksum": CRC-32 of "about"}

Anyone may have written a step. What about.json says has the shape of `About`, or the step is damaged; a file that it names
is a regular file below the step, reached through no link.
"""

from __future__ import annotations

import errno
import json
import os
import time
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Annotated, Any, BinaryIO, NotRequired, TypedDict, TypeVar

import ml_dtypes
import msgspec
import numpy as np
from etils import epath

from scratchpatch import files as files_lib
from scratchpatch import json_files
from scratchpatch.json_files import Count

STATE = "state"
ABOUT = "about.json"
# Of about.json; the rest of a longer one is cut off, and what is left is no JSON.
_MOST_BYTES = 1 << 28
# What says that a file is not there; of any other error of a disk or a network, the next try may know nothing.
_GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
# Of what is no regular file, or has a name that no file can have.
_NO_FILE = (errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG)
_PAUSES = (0.2, 1.0)
T = TypeVar("T")
# Path under state/ to size and CRC-32.
Files = dict[str, list[int]]


class _Array(TypedDict):
    shape: list[Count]
    dtype: str


class _Metrics(TypedDict, total=False):
    """Those that something is decided by; others may be there."""

    validation_bpb: Annotated[float, msgspec.Meta(ge=0, le=1e9)] | None
    validation_bytes: Count | None


class About(TypedDict):
    """What describes a step."""

    schema: NotRequired[Any]
    config: dict[str, Any]
    step: Count
    version: str
    metrics: _Metrics
    arrays: dict[str, _Array]
    files: dict[str, tuple[Count, Count]]


class _Sealed(TypedDict):
    about: About
    checksum: Count


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
    """Describe the folder STEP/state: `about` (all of About but "files") and its files. Raises OSError.

    known: of the files, those that others have already described; they are not read.
    """
    known = known or {}
    found = known | files(step, lambda name: name not in known)
    files_lib.replace_text(step / ABOUT, _sealed(about | {"files": dict(sorted(found.items()))}))


def number(name: str) -> int | None:
    """The step that a folder of this name holds; None: such names are no steps ('0008', as '8' is one, or '٨')."""
    return int(name) if name.isascii() and name.isdecimal() and str(int(name)) == name else None


def read(step: Path) -> dict[str, Any]:
    """What `write` was given, and "files": see `About`.

    step: named by its number, perhaps with more behind a dot ('200', '200.partial').

    Raises Damaged or Unreadable.
    """
    text = _patiently(ABOUT, lambda: _text(_part(step, ABOUT)))
    try:
        # Thresholds may be infinite.
        about = json_files.parse(text, _Sealed, constants=True)["about"]
    except json_files.Malformed as error:
        raise Damaged(f"{ABOUT} cannot be read: {error}") from error
    if _sealed(about).encode() != text:
        raise Damaged(f"the checksum of {ABOUT} is wrong")
    if number(step.name.partition(".")[0]) != about["step"]:
        raise Damaged(f"it holds step {about['step']}, which is not its folder's name")
    for name, array in about["arrays"].items():
        if not _is_dtype(array["dtype"]):
            raise Damaged(f"{ABOUT}: about.arrays: {name} has dtype {array['dtype']!r}, which does not exist")
    return about


def parts(step: Path) -> Iterator[Path]:
    """The files that a step consists of, about.json first: it says what the others are. Raises Damaged or Unreadable."""
    yield step / ABOUT
    yield from (_part(step, f"{STATE}/{name}") for name in read(step)["files"])


def revoke(step: Path) -> None:
    """Take away what makes a step whole, before its files go."""
    (step / ABOUT).unlink(missing_ok=True)


def finished(step: Path) -> float:
    """When `write` was done, in seconds since the epoch. Raises OSError."""
    path = step / ABOUT
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
        path = _part(step, f"{STATE}/{name}")
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
        target = _part(into, f"{STATE}/{name}")
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("wb") as out:

            def put(chunk: bytes, out=out) -> None:
                out.write(chunk)
                moved(len(chunk))

            try:
                # Not patiently: a second try would write twice.
                found = _size_and_checksum(_part(step, f"{STATE}/{name}"), put)
            except OSError as error:
                if _is_missing(error):
                    raise Damaged(f"{STATE}/{name} cannot be read: {error.strerror or first_line(error)}") from error
                raise
        if found != wanted:
            raise Damaged(f"the size or checksum of {STATE}/{name} is wrong")
    (into / ABOUT).write_text(_sealed(about))
    check(into, read(into), skipped=(), seen=moved)


def first_line(error: BaseException) -> str:
    """An error as one line of at most 300 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _part(step: Path, name: str) -> Path:
    """The path of a file of a step by its name, such as 'state/params/manifest.ocdbt'. Raises Damaged."""
    try:
        return files_lib.below(step, name)
    except ValueError as error:
        raise Damaged(str(error)) from error


def _open(path: Path) -> BinaryIO:
    return path.open("rb") if "://" in str(path) else files_lib.open_regular(path)


def _text(path: Path) -> bytes:
    with _open(path) as file:
        return file.read(_MOST_BYTES)


def _is_missing(error: OSError) -> bool:
    return isinstance(error, _GONE) or error.errno in _NO_FILE


def _is_dtype(name: str) -> bool:
    """Whether arrays of numbers may have it."""
    try:
        found = np.dtype(name)
    except (TypeError, ValueError):
        return False
    return found.name == name and (found.kind in "biufc" or hasattr(ml_dtypes, name))


def _sealed(about: dict[str, Any]) -> str:
    text = json.dumps(about, sort_keys=True)
    return json.dumps({"about": about, "checksum": zlib.crc32(text.encode())}, sort_keys=True)


def _patiently(name: str, get: Callable[[], T]) -> T:
    """What `get` reads, tried again after an error that may pass. Raises Damaged where the file is gone, or Unreadable."""
    pauses = iter(_PAUSES)
    while True:
        try:
            return get()
        except OSError as error:
            reason = f"{name} cannot be read: {error.strerror or first_line(error)}"
            if _is_missing(error):
                raise Damaged(reason) from error
            pause = next(pauses, None)
            if pause is None:
                raise Unreadable(reason) from error
            time.sleep(pause)


def _size_and_checksum(path: Path, seen: Callable[[bytes], None] | None = None) -> list[int]:
    with _open(path) as file:
        return files_lib.size_and_checksum(file, seen)
