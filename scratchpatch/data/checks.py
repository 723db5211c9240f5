"""Files compared with their checksums: little ones at each opening, large ones once after each change.

A marker file remembers which files were right: of each its size, times and inode. What is left to compare is read at
once where it is little. Where it is more, a thread reads it while the stream is in use, and the next read of the stream
raises what the thread has found.
"""

import contextlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from absl import logging

from scratchpatch import files, json_files
from scratchpatch.data import paths
from scratchpatch.errors import UserError

# Bytes of all files together that are read at each opening, and after a change before the stream is used.
EACH_TIME, AT_ONCE = 1 << 24, 1 << 28


class Damaged(Exception):
    """A file is not what its checksum says; the message names the file."""


class Checked(NamedTuple):
    """A file of this machine, its bytes, and a function that reads it and returns whether it has its checksum."""

    path: str
    size: int
    is_right: Callable[[], bool]


class Check:
    """The files of one stream. The constructor reads what is read at once; `start` has the rest read in a thread."""

    def __init__(self, checked: list[Checked], marker: Path, message: Callable[[str], str]):
        """Compare what is little; the most important files come first. `message` makes the error text from the path of
        a damaged file that the thread comes upon. Raises Damaged where a file is; OSError where one cannot be read.
        """
        self._marker, self._message = marker, message
        self._states = _states([file.path for file in checked])
        each_time = sum(file.size for file in checked) <= EACH_TIME
        remembered = {} if each_time else read_marker(marker, dict[str, list[int]], {})
        changed = {name for name, state in self._states.items() if remembered.get(name) != state}
        self._waiting = [file for file in checked if os.path.basename(file.path) in changed]
        room = AT_ONCE
        while self._waiting and self._waiting[0].size <= room:
            room -= self._waiting[0].size
            _compare(self._waiting.pop(0))
        self._problem: str | None = None
        self._thread: threading.Thread | None = None
        if not each_time and not self._waiting and remembered != self._states:
            write_marker(marker, self._states)

    def start(self) -> None:
        """Read what is left, in a thread; a second call does nothing."""
        if self._waiting and self._thread is None:
            gigabytes = sum(file.size for file in self._waiting) / 1e9
            logging.info("comparing %.1f GB with their checksums meanwhile: %s, ...", gigabytes, self._waiting[0].path)
            self._thread = threading.Thread(target=self._compare_rest, daemon=True)
            self._thread.start()

    def raise_damage(self) -> None:
        """Raise UserError where the thread has found damage."""
        if self._problem is not None:
            raise UserError(self._problem)

    def _compare_rest(self) -> None:
        for file in self._waiting:
            try:
                _compare(file)
            except Damaged:
                self._problem = self._message(file.path)
                return
            except OSError as error:
                logging.warning("%s cannot be compared with its checksum (%s)", file.path, error)
                return
        # A file that was changed while it was read has another state by now, and will be read again.
        write_marker(self._marker, self._states)


def remember(marker: Path, written: list[str]) -> None:
    """Let a marker say that files, which have just been written, are right."""
    write_marker(marker, _states(written))


def read_marker(marker: Path, shape: Any, default: Any) -> Any:
    """What a marker file says, see `json_files`; the default where it is missing or damaged."""
    try:
        return json_files.read(marker, shape) if os.path.exists(marker) else default
    except (OSError, ValueError):
        return default


def write_marker(marker: Path, value: Any) -> None:
    """Write a marker file where that is possible; in another user's cache, or on a full disk, nothing is remembered."""
    with contextlib.suppress(OSError):
        marker.parent.mkdir(parents=True, exist_ok=True)
        files.replace_text(marker, json.dumps(value))


def _states(checked: list[str]) -> dict[str, list[int]]:
    return {os.path.basename(path): paths.changed(path) for path in checked}


def _compare(file: Checked) -> None:
    if not file.is_right():
        raise Damaged(f"the checksum of {file.path} is wrong")
