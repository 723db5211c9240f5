"""One owner at a time, by a file that the system unlocks when its owner dies, however it dies. Free of JAX."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from scratchpatch.errors import UserError


@contextlib.contextmanager
def hold(path: Path, who: str) -> Iterator[None]:
    """Own `path`, a file that is made where it is missing; its folder is what is owned.

    Args:
      who: what its owners are, for the message, such as 'trainer'.

    Raises:
      UserError: another one holds it: names its process; or it cannot be written, or is a file of another kind.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Without O_NONBLOCK, opening a pipe waits for its other end.
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
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
        # Who holds it is for the message alone; a full disk has no room for it.
        with contextlib.suppress(OSError):
            os.ftruncate(file, 0)
            os.pwrite(file, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(file)
