"""The files that a pattern matches, each real file once, whatever links lead to it."""

import glob
import heapq
import itertools
import os
from collections.abc import Iterator

from scratchpatch.data import paths


def matching(pattern: str) -> list[str]:
    """The files of a pattern, sorted. Raises OSError. `**` crosses folders, also through links, each real folder once:
    under its own name where it has one below the pattern's fixed part, else under the first link's. So links in circles
    end.
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
    chosen = set()
    for same in names.values():
        chosen.add(same[0] if len(same) == 1 else min(same, key=lambda path: (_links(paths.local(path)), path)))
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
    """The folders from these down, without those whose names begin with a dot, each real one once. Those with fewer
    links on their way come first: a link to a folder that has its own name is no other folder.
    """
    seen = {None}
    queue = [(os.path.islink(top), top) for top in tops]
    heapq.heapify(queue)
    while queue:
        links, folder = heapq.heappop(queue)
        if (identity := _identity(folder)) in seen:
            continue
        seen.add(identity)
        for _, names, _ in itertools.islice(os.walk(folder), 1):  # as with glob, a folder that may not be read is none
            yield folder
            below = [os.path.join(folder, name) for name in names if not name.startswith(".")]
            for path in below:
                heapq.heappush(queue, (links + os.path.islink(path), path))


def _identity(path: str) -> tuple[int, int] | None:
    """Equal for two names of one file or folder; None where it may not be seen (reading it says what is wrong)."""
    try:
        stat = os.stat(path)
        return stat.st_dev, stat.st_ino
    except OSError:
        return None


def _links(path: str) -> int:
    """How many of the folders on the way to a file of this machine, and the file, are links."""
    names = path.split(os.sep)
    return sum(os.path.islink(os.sep.join(names[:depth])) for depth in range(2, len(names) + 1))
