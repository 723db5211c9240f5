"""Who owns a folder, and who reads one, by files that the system unlocks when a process dies, however it dies. Free of JAX."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from scratchpatch import files
from scratchpatch.errors import UserError


@contextlib.contextmanager
def hold(path: Path, who: str) -> Iterator[None]:
    """Own `path`, a file that is made where it is missing; its folder is what is owned.

    Args:
      who: what its owners are, for the message, such as 'trainer'.

    Raises:
      UserError: another one holds it: names its process; or it cannot be written, or not locked, or is a file of another kind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Through a link, what it leads to would be written over; without O_NONBLOCK, opening a pipe waits for its other end.
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; use another --workdir") from error
    try:
        with contextlib.suppress(OSError):
            owner = ""
            owner = os.pread(file, 64, 0).decode(errors="replace").strip()
        if owner and not owner.isdecimal():
            raise UserError(f"{path} is not the lock of a run, and would be overwritten: use another --workdir")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"workdir {path.parent} is in use by another {who} (process {owner or 'unknown'}); "
                "wait for it, stop it, or use another --workdir"
            ) from error
        except OSError as error:
            raise UserError(f"cannot lock {path}: {error.strerror}; use a --workdir on a disk that has locks") from error
        # Who holds it is for the message alone; a full disk has no room for it.
        with contextlib.suppress(OSError):
            os.ftruncate(file, 0)
            os.pwrite(file, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(file)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Ask whoever would remove the folder of this file to wait until it was read: see `unread`.

    That is all that a reader may do to another one's folder, and on a disk without locks it is nothing.

    Raises:
      OSError: the file is not there, or its folder is being removed.
    """
    with files.open_regular(path) as file:
        _take(file.fileno(), fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def unread(path: Path) -> Iterator[None]:
    """Keep readers from the folder of this file, which may be missing, while it is removed.

    Raises:
      BlockingIOError: one reads it now.
    """
    try:
        # Network disks want it open for writing.
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        yield
        return
    try:
        _take(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, kind: int) -> None:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass  # no locks on this disk
