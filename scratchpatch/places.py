"""Where a user's files lie on this machine: what `~` means, and the folder of what may be made again. Free of JAX."""

import functools
import os
import pwd
import stat
import tempfile
from pathlib import Path

from absl import logging

from scratchpatch.errors import UserError


def home() -> str | None:
    """$HOME, else what the password file says; None where a user has neither, as in many containers."""
    if variable := os.environ.get("HOME"):
        return variable
    try:
        return pwd.getpwuid(os.getuid()).pw_dir or None
    except KeyError:
        return None


def expanded(path: str) -> str:
    """The path with the home folder in the place of a leading `~`. Raises UserError where there is no home folder."""
    if path != "~" and not path.startswith("~/"):
        return os.path.expanduser(path)
    if (folder := home()) is None:
        raise UserError(f"{path}: this user has no home folder (HOME is not set): write the whole path")
    return folder.rstrip("/") + path[1:] or "/"


def unstorable(path: str) -> str | None:
    """Why a folder cannot hold checkpoints, shards or exported arrays, as the end of a sentence; None where it can."""
    if not path or "://" in path:
        return None
    full = os.path.abspath(path)
    if not any("\udc80" <= character <= "\udcff" for character in full):
        return None
    reason = "which is no UTF-8, and the libraries that store arrays take no other names"
    return f"lies at {full}, {reason}; rename it, or name a link to it"


def cache_folder(configured: str = "") -> Path:
    """Folder of stream indexes and compiled programs, which need not exist: `configured`, else $SCRATCHPATCH_CACHE,
    else ~/.cache/scratchpatch, else, without a home, a folder of this user alone below the system's temporary one.
    Raises UserError, which names SCRATCHPATCH_CACHE, where there is none.
    """
    if path := configured or os.environ.get("SCRATCHPATCH_CACHE"):
        return Path(expanded(path))
    folder = home()
    return Path(folder) / ".cache" / "scratchpatch" if folder else _temporary()


@functools.cache
def _temporary() -> Path:
    """The cache folder of a user without a home. Others write beside it, so it must be this user's own."""
    path = None
    try:
        path = Path(tempfile.gettempdir()) / f"scratchpatch-{os.getuid()}"
        path.mkdir(mode=0o700, exist_ok=True)
        status = path.lstat()
    except OSError as error:
        problem = f"{path or 'the temporary one'} cannot be used ({error.strerror})"
        raise UserError(f"no home folder, and {problem}: set SCRATCHPATCH_CACHE") from error
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        problem = f"{path} is not a folder of this user alone"
        raise UserError(f"no home folder, and {problem}: set SCRATCHPATCH_CACHE to one that is")
    kept = f"indexes and compiled programs go to {path}"
    logging.info("there is no home folder: %s; SCRATCHPATCH_CACHE names another", kept)
    return path
