"""Who owns a folder and who reads one: locks that the system drops with the process, however it dies. Free of JAX."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from scratchpatch import files
from scratchpatch.errors import UserError

# Through a link, the file that it leads to would be written over; without O_NONBLOCK, opening a pipe waits for its
# other end; and network disks want a file open for writing before they lock it.
_OPENED = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@contextlib.contextmanager
def hold(path: Path, who: str) -> Iterator[None]:
    """Own the folder of `path`, a file that is made where it is missing. `who` is what the owners of such a lock are,
    such as 'trainer'. Raises UserError where another process holds it, which is named, and where the file cannot be
    written or locked, or is no lock.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(path, _OPENED | os.O_CREAT, 0o666)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; use another --workdir") from error
    with contextlib.closing(os.fdopen(file, "r+b", buffering=0)):
        owner = ""
        with contextlib.suppress(OSError):
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
            fix = "use a --workdir on a disk that has locks"
            raise UserError(f"cannot lock {path}: {error.strerror}; {fix}") from error
        # The number of the process is for the message alone; a full disk has no room for it.
        with contextlib.suppress(OSError):
            os.ftruncate(file, 0)
            os.pwrite(file, str(os.getpid()).encode(), 0)
        yield


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Ask whoever would remove the folder of this file to wait until it was read, see `unread`. A reader may do no more
    to another one's folder, and on a disk without locks this does nothing. Raises OSError where the file is not there,
    or its folder is being removed.
    """
    with files.open_regular(path) as file:
        _lock(file.fileno(), fcntl.LOCK_SH)
        yield


@contextlib.contextmanager
def unread(path: Path) -> Iterator[None]:
    """Keep readers from the folder of this file, which may be missing, while the folder is removed. Raises
    BlockingIOError where one reads it now.
    """
    try:
        file = os.open(path, _OPENED)
    except OSError:
        yield
        return
    try:
        _lock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _lock(file: int, kind: int) -> None:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError:
        pass  # this disk has no locks
