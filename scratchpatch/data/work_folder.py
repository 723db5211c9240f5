"""Folders that a process writes in before they have their name, and what is left of those whose process died.

A folder `.building-ID` is locked by its owner, and the system drops the lock with the process: a folder that can be
locked belongs to nobody, and is removed at the next build. On a file system without locks it is left alone for a day. A
folder `.damaged-ID` was moved out of the way, to be removed.
"""

import contextlib
import fcntl
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from scratchpatch.errors import UserError

_BUILDING, _DAMAGED = ".building-", ".damaged-"
_ABANDONED_SECONDS = 86_400


@contextlib.contextmanager
def work_folder(parent: Path) -> Iterator[Path]:
    """A new folder in `parent`, to be filled and renamed; it is removed at the end, and so are those without an owner.
    Raises OSError.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for path in parent.glob(".*-*"):
        if path.name.startswith(_DAMAGED):
            remove(path)
        elif path.name.startswith(_BUILDING):
            _remove_abandoned(path)
    folder, lock = _new_folder(parent)
    try:
        yield folder
    finally:
        remove(folder)
        if lock is not None:
            os.close(lock)


def move_away(path: Path) -> None:
    """Remove what lies at `path`, whatever it is; another process may do the same. Raises OSError where it stays."""
    damaged = path.parent / f"{_DAMAGED}{uuid.uuid4().hex}"
    with contextlib.suppress(FileNotFoundError):  # another process has moved it
        os.rename(path, damaged)
    remove(damaged)


def remove(path: Path) -> None:
    """Remove a folder, a file or a link, as far as that is possible."""
    with contextlib.suppress(OSError):
        if os.path.islink(path) or not os.path.isdir(path):
            path.unlink()
        else:
            os.chmod(path, 0o700)
    shutil.rmtree(path, ignore_errors=True)


def lock_alone(descriptor: int, message: str) -> None:
    """Lock an open file until it is closed. Raises UserError with the message where another process holds the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UserError(message) from error


def _new_folder(parent: Path) -> tuple[Path, int | None]:
    """The path of a new folder, and the descriptor that holds its lock; None where the file system has no locks."""
    while True:
        folder = parent / f"{_BUILDING}{uuid.uuid4().hex}"
        folder.mkdir()
        try:
            return folder, _lock(folder)
        except (BlockingIOError, FileNotFoundError):  # another process has found it before it was locked
            continue
        except OSError:
            return folder, None


def _lock(folder: Path) -> int:
    """The descriptor that holds a folder's lock.

    Raises BlockingIOError or FileNotFoundError where another process holds the lock or has removed the folder, another
    OSError where the file system has no locks of folders.
    """
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(folder)
    except OSError:
        os.close(lock)
        raise
    return lock


def _remove_abandoned(folder: Path) -> None:
    """Remove a folder that has no owner, or, without locks, one in which nothing was written for a day."""
    try:
        lock = _lock(folder)
    except (BlockingIOError, FileNotFoundError):
        return
    except OSError:
        with contextlib.suppress(OSError):
            newest = max(os.lstat(path).st_mtime for path in (folder, *folder.glob("*")))
            if time.time() - newest > _ABANDONED_SECONDS:
                remove(folder)
        return
    remove(folder)
    os.close(lock)
