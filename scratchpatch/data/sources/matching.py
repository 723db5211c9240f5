"""The files that a pattern matches, each real file once, whatever links lead to it."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator

from scratchpatch.data import paths


def matching(pattern: str) -> list[str]:
    """The files of a pattern, sorted. Raises OSError.

    `**` crosses folders, also through links, each real folder once: under its own name where it has one below the
    pattern's fixed part, else under the first link's. So links in circles end.
    """
    if (local := paths.local(pattern)) is not None:
        prefix = pattern.removesuffix(local)
        return sorted({prefix + path for path in _matches(local) if not os.path.isdir(path)})
    files = paths.system(pattern)
    matches = files.glob(pattern, detail=True)
    return sorted(files.unstrip_protocol(path) for path, entry in matches.items() if entry["type"] == "file")


def distinct(files: list[str]) -> list[str]:
    """The files in their order, each real one once: under the name with the fewest links on its way, else the first."""
    if not files or paths.local(files[0]) is None:
        return files
    names: dict[object, list[str]] = {}
    for path in files:
        names.setdefault(_identity(paths.local(path)) or path, []).append(path)
    chosen = {same[0] if len(same) == 1 else min(same, key=lambda path: (_links(path), path)) for same in names.values()}
    return [path for path in files if path in chosen]


def _matches(pattern: str) -> Iterator[str]:
    """The paths of a pattern of this machine, some perhaps more than once."""
    names = pattern.split(os.sep)
    if "**" not in names:
        yield from glob.glob(pattern)
        return
    at = names.index("**")
    top, below = os.sep.join(names[:at]) or (os.sep if at else os.curdir), names[at + 1 :]
    tops = glob.glob(top) if glob.has_magic(top) else [top]
    for folder in _folders([top for top in tops if os.path.isdir(top)]):
        yield from _matches(os.path.join(glob.escape(folder), *(below or ["*"])))


def _folders(tops: list[str]) -> Iterator[str]:
    """The folders from these down, without those whose names begin with a dot, each real one once."""
    seen = set()
    tops = sorted(tops, key=lambda top: (os.path.islink(top), top))
    while tops:
        links = []
        for top in tops:
            for folder, names, _ in os.walk(top):
                identity = _identity(folder)
                if identity is None or identity in seen:
                    names.clear()
                    continue
                seen.add(identity)
                yield folder
                names[:] = sorted(name for name in names if not name.startswith("."))
                links += [path for name in names if os.path.islink(path := os.path.join(folder, name))]
        # A link to a folder that has its own name below the tops is no other folder, so links come last.
        tops = sorted(links)


def _identity(path: str) -> tuple[int, int] | None:
    """Equal for two names of one file or folder; None where it may not be seen (reading it says what is wrong)."""
    try:
        stat = os.stat(path)
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _links(path: str) -> int:
    """How many of the folders on the way to a file, and the file, are links."""
    path = paths.local(path)
    count = 0
    while path != (above := os.path.dirname(path)):
        count += os.path.islink(path)
        path = above
    return count
