"""Folders that a process writes in before they have their name, and what is left of those whose process died.

    .building-ID        the folder
    .building-ID.lock   held by its owner; the system drops the lock with the process, however it ends
    .damaged-ID         moved out of the way, to be removed

The lock is there before the folder is, so a folder without a lock file belongs to nobody, or to a machine whose file
system has no locks: it is left alone for a day.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

_BUILDING, _DAMAGED, _LOCK = ".building-", ".damaged-", ".lock"
_ABANDONED_SECONDS = 86_400


@contextlib.contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, to be filled and renamed; it is removed at the end, and so are those without an owner.

    Raises OSError.
    """
    parent.mkdir(parents=True, exist_ok=True)
    _sweep(parent)
    folder, lock = _locked(parent)
    try:
        folder.mkdir()
        yield folder
    finally:
        remove(folder)
        if lock is not None:
            _unlink(_lock_of(folder))
            os.close(lock)


def move_away(path: Path) -> None:
    """Remove what lies at `path`, whatever it is; another process may do so at once. Raises OSError where it stays."""
    damaged = path.parent / f"{_DAMAGED}{uuid.uuid4().hex}"
    with contextlib.suppress(FileNotFoundError):  # another process moved it first
        os.rename(path, damaged)
    remove(damaged)


def remove(path: Path) -> None:
    """Remove a folder, a file or a link, as far as that is possible."""
    if os.path.islink(path) or not os.path.isdir(path):
        _unlink(path)
        return
    with contextlib.suppress(OSError):
        os.chmod(path, 0o700)
    shutil.rmtree(path, ignore_errors=True)


def _locked(parent: Path) -> tuple[Path, int | None]:
    """The path of a new folder, and its lock (None where the file system has none)."""
    while True:
        folder = parent / f"{_BUILDING}{uuid.uuid4().hex}"
        lock = os.open(_lock_of(folder), os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            if isinstance(error, BlockingIOError):  # another process takes it for abandoned
                continue
            _unlink(_lock_of(folder))
            return folder, None
        if os.path.exists(_lock_of(folder)):
            return folder, lock
        os.close(lock)


def _sweep(parent: Path) -> None:
    """Remove what has no owner."""
    for path in sorted(parent.glob(".*-*")):
        if path.name.startswith(_DAMAGED):
            remove(path)
        elif path.name.startswith(_BUILDING) and path.suffix == _LOCK:
            _sweep_unlocked(path)
        elif path.name.startswith(_BUILDING) and not os.path.lexists(_lock_of(path)) and _old(path):
            remove(path)


def _sweep_unlocked(path: Path) -> None:
    """Remove a folder and its lock file, unless the lock is held."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:  # its owner has just finished, or it is another user's
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(path.with_suffix(""))
        _unlink(path)
    except OSError:  # it is held, or this machine has no locks there
        pass
    finally:
        os.close(lock)


def _old(folder: Path) -> bool:
    """Whether nothing was written in a folder for a day."""
    try:
        return time.time() - max(os.lstat(path).st_mtime for path in (folder, *folder.glob("*"))) > _ABANDONED_SECONDS
    except OSError:
        return False


def _lock_of(folder: Path) -> Path:
    return folder.with_name(folder.name + _LOCK)


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
