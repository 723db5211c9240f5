"""Files compared with their checksums: little ones at each opening, large ones once after each change.

What was found right is remembered in a marker file: of each file its size, times and inode, which change where it is
written, copied or put in another's place. What is left to read is read at once where it is little; where it is more, a
thread reads it while the stream is in use, and whoever reads on then learns what it found.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from absl import logging

from scratchpatch import files, json_files
from scratchpatch.data import paths
from scratchpatch.errors import UserError

# Bytes of all files together that are read at each opening, and after a change before the stream is used.
EACH_TIME, AT_ONCE = 1 << 24, 1 << 28


class Damaged(Exception):
    """A file is not what its checksum says; names it."""


class Checked(NamedTuple):
    """A file with a checksum.

    Attributes:
        path: of the file, on this machine.
        size: in bytes.
        right: reads it, and says whether it is what its checksum says.
    """

    path: str
    size: int
    right: Callable[[], bool]


class Check:
    """The files of one stream. Making one reads what is read at once; `start` has the rest read in a thread."""

    def __init__(self, parts: list[Checked], marker: Path, found: Callable[[str], str]):
        """Compare what is little.

        Args:
            parts: the files, those that count most first.
            marker: the file that remembers.
            found: is told the path of a damaged file that the thread finds, and gives the message for the user.

        Raises:
            Damaged: one of them is.
            OSError: one cannot be read.
        """
        self._marker, self._message = marker, found
        self._states = _states([part.path for part in parts])
        each_time = sum(part.size for part in parts) <= EACH_TIME
        known = {} if each_time else _read(marker)
        waiting = [part for part in parts if known.get(os.path.basename(part.path)) != self._states[os.path.basename(part.path)]]
        room = AT_ONCE
        while waiting and waiting[0].size <= room:
            room -= waiting[0].size
            _compare(waiting.pop(0))
        self._waiting = waiting
        self._problem: str | None = None
        self._thread: threading.Thread | None = None
        if not each_time and not waiting and known != self._states:
            self._remember()

    def start(self) -> None:
        """Read what is left, in a thread; once."""
        if self._waiting and self._thread is None:
            total = sum(part.size for part in self._waiting)
            logging.info("comparing %.1f GB with their checksums meanwhile: %s, ...", total / 1e9, self._waiting[0].path)
            self._thread = threading.Thread(target=self._read_rest, daemon=True)
            self._thread.start()

    def raise_found(self) -> None:
        """Raise UserError where the thread has found damage."""
        if self._problem is not None:
            raise UserError(self._problem)

    def _read_rest(self) -> None:
        for part in self._waiting:
            try:
                _compare(part)
            except Damaged:
                self._problem = self._message(part.path)
                return
            except OSError as error:
                logging.warning("%s cannot be compared with its checksum (%s)", part.path, error)
                return
        self._remember()

    def _remember(self) -> None:
        # A file that was changed while it was read has another state by now, and will be read again.
        _write(self._marker, self._states)


def remember(marker: Path, found: list[str]) -> None:
    """Let a marker say that files, which have just been written, are right."""
    _write(marker, _states(found))


def _states(found: list[str]) -> dict[str, list[int]]:
    return {os.path.basename(path): paths.changed(path) for path in found}


def _write(marker: Path, states: dict[str, list[int]]) -> None:
    with contextlib.suppress(OSError):  # another user's cache, or a full disk: it is compared again next time
        marker.parent.mkdir(parents=True, exist_ok=True)
        files.replace_text(marker, json.dumps(states))


def _compare(part: Checked) -> None:
    if not part.right():
        raise Damaged(f"the checksum of {part.path} is wrong")


def _read(marker: Path) -> dict[str, list[int]]:
    if not os.path.exists(marker):
        return {}
    try:
        return json_files.read(marker, dict[str, list[int]])
    except (OSError, ValueError):  # a marker that is damaged says nothing
        return {}
