"""What a stored step consists of, so that damage is found before anything reads it.

    STEP/state/        files of any kind
    STEP/about.json    {"about": {..., "files": {path under state/: [bytes, CRC-32]}}, "checksum": CRC-32 of "about"}
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from scratchpatch.training.json_files import replace_text

STATE = "state"
_ABOUT = "about.json"
_CHUNK_BYTES = 1 << 20


class Damaged(Exception):
    """A stored step that cannot be trusted; says why."""


def write(step: Path, about: dict[str, Any]) -> None:
    """Describe the folder STEP/state: `about` (plain JSON values) and its files. Raises OSError."""
    state = step / STATE
    files = {str(p.relative_to(state)): _size_and_checksum(p) for p in sorted(state.rglob("*")) if p.is_file()}
    replace_text(step / _ABOUT, _sealed(about | {"files": files}))


def read(step: Path) -> dict[str, Any]:
    """What `write` was given, and "files". Raises Damaged."""
    try:
        text = (step / _ABOUT).read_text()
        about = json.loads(text)["about"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Damaged(f"{_ABOUT} cannot be read: {first_line(error)}") from error
    if _sealed(about) != text:
        raise Damaged(f"the checksum of {_ABOUT} is wrong")
    return about


def finished(step: Path) -> float:
    """When `write` was done, in seconds since the epoch. Raises OSError."""
    return (step / _ABOUT).stat().st_mtime


def check(
    step: Path, about: dict[str, Any], skipped: Collection[str], seen: Callable[[int], None] | None = None
) -> None:
    """Raise Damaged unless the files are those that were written.

    about: from `read`.
    skipped: folders directly under STEP/state that are not looked at.
    seen: called with the number of bytes of every piece that was read, for who waits.
    """
    for name, (size, checksum) in about["files"].items():
        if name.split("/")[0] in skipped:
            continue
        try:
            size_now, checksum_now = _size_and_checksum(step / STATE / name, seen)
        except OSError as error:
            raise Damaged(f"{STATE}/{name} cannot be read: {error.strerror}") from error
        if size_now != size:
            raise Damaged(f"{STATE}/{name} holds {size_now} bytes instead of {size}")
        if checksum_now != checksum:
            raise Damaged(f"the checksum of {STATE}/{name} is wrong")


def first_line(error: BaseException) -> str:
    """An error as one line of at most 300 characters."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _sealed(about: dict[str, Any]) -> str:
    text = json.dumps(about, sort_keys=True)
    return json.dumps({"about": about, "checksum": zlib.crc32(text.encode())}, sort_keys=True)


def _size_and_checksum(path: Path, seen: Callable[[int], None] | None = None) -> list[int]:
    size = checksum = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            size += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
            if seen is not None:
                seen(len(chunk))
    return [size, checksum]
