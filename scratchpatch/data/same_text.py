"""Whether files that have the names, sizes and times of an index's sources still have its text.

A program can give another text the size and modification time of the one before, but not the inode's own time. Files in
a state that was not seen with this text are compared by their contents: whole where they are little, else the
beginning, middle and end of each.
"""

import contextlib
import hashlib
from pathlib import Path

from absl import logging

from scratchpatch.data import checks, paths
from scratchpatch.files import digest, open_regular, size_and_checksum

# Bytes that are compared at the beginning, middle and end of a large file, and states that are remembered.
_PROBE, _REMEMBERED = 1 << 14, 1000


def state(files: list[tuple[str, str]]) -> str:
    """A hash that differs where a file of this machine was written, replaced or copied."""
    states = []
    for _, path in files:
        try:
            states += paths.changed(path)
        except OSError:  # reading the file says what is wrong
            states.append(-1)
    return digest(repr(states).encode())


def probe(files: list[tuple[str, str]]) -> str:
    """A hash of the contents of the files of this machine, or of parts of them; the same on every machine."""
    contents, sizes = hashlib.blake2b(digest_size=16), {}
    for _, path in files:
        if not paths.is_url(path):
            with contextlib.suppress(OSError):  # reading the file says what is wrong
                sizes[path] = paths.size(path)
    whole = sum(sizes.values()) <= checks.AT_ONCE
    for path, size in sizes.items():
        with contextlib.suppress(OSError), open_regular(path) as file:
            if whole:
                size_and_checksum(file, contents.update)
            for offset in () if whole else sorted({0, size // 2, max(size - _PROBE, 0)}):
                file.seek(offset)
                contents.update(file.read(_PROBE))
    return contents.hexdigest()


def is_same(marker: Path, text: str, files: list[tuple[str, str]]) -> bool:
    """Whether the files have the text of a `probe`. The marker file remembers the states that had it."""
    now = state(files)
    if now in checks.read_marker(marker, list[str], []):
        return True
    if probe(files) != text:
        logging.warning("%s is of another text of the same names, sizes and times: building it again", marker.parent)
        return False
    remember(marker, now)
    return True


def remember(marker: Path, now: str) -> None:
    """Add a state to those in a marker file, where that can be written."""
    checks.write_marker(marker, [*checks.read_marker(marker, list[str], []), now][-_REMEMBERED:])
