"""Whether files that have the names, sizes and times of an index's still have its text.

Programs can give another text the size and modification time of the one before; the inode's own time they cannot. Where
the files' states are none that were seen with this text (they were copied, say, or another machine has a copy), their
contents are compared: whole where they are little, else the beginning, middle and end of each. So a state costs nothing
that was seen before, and machines with copies of one text share an index.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path

from scratchpatch import files as local_files
from scratchpatch import json_files
from scratchpatch.data import checks, paths

# Bytes at the beginning, middle and end of a file; states that are remembered.
_PROBE, _KEPT = 1 << 14, 1000


def state(files: list[tuple[str, str]]) -> str:
    """What is another where a file of this machine was written, replaced or copied; one that cannot be seen counts as it is."""
    states = []
    for _, path in files:
        try:
            states += paths.changed(path)
        except OSError:  # reading it says what is wrong
            states.append(-1)
    return hashlib.blake2b(repr(states).encode(), digest_size=16).hexdigest()


def probe(files: list[tuple[str, str]]) -> str:
    """A hash of the contents of the files of this machine, or of parts of them; the same on every machine."""
    found, local = hashlib.blake2b(digest_size=16), [(name, path) for name, path in files if not paths.is_url(path)]
    sizes = {}
    for name, path in local:
        with contextlib.suppress(OSError):  # reading it says what is wrong
            sizes[name] = os.path.getsize(path)
    whole = sum(sizes.values()) <= checks.AT_ONCE
    for name, path in local:
        with contextlib.suppress(OSError), local_files.open_regular(path) as file:
            for at in [0] if whole else sorted({0, max(sizes[name] // 2, 0), max(sizes[name] - _PROBE, 0)}):
                file.seek(at)
                while piece := file.read(1 << 20 if whole else _PROBE):
                    found.update(piece)
                    if not whole:
                        break
    return found.hexdigest()


def is_seen(path: Path, now: str) -> bool:
    """Whether a state is among those in a file."""
    return now in _read(path)


def remember(path: Path, now: str) -> None:
    """Add a state to those in a file, where that can be written."""
    with contextlib.suppress(OSError):
        local_files.replace_text(path, json.dumps([*_read(path), now][-_KEPT:]))


def _read(path: Path) -> list[str]:
    try:
        return json_files.read(path, list[str]) if os.path.exists(path) else []
    except (OSError, ValueError):  # one that is damaged says nothing
        return []
