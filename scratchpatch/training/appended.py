"""A file that a run appends to, and that is never a reason for the run to stop. Free of JAX.

What cannot be written (a full disk, no permission) is one warning, stays in memory, and is tried again a few seconds
later, in order. Half of a piece is taken back, so that a disk with room again never glues two of them together.
"""

import collections
import contextlib
import errno
import os
import stat
import time
from pathlib import Path

from absl import logging

from scratchpatch import files

# Seconds before another try, and the most pieces that wait for one; the oldest are dropped.
_AGAIN, _MOST = 5.0, 10_000


class Appended:
    """Opens with the first piece, and makes the folder where it is missing. begin: what a file that was empty begins
    with; None: it holds lines, and one that a kill has torn is cut off.
    """

    def __init__(self, path: Path, begin: bytes | None = None):
        self._path, self._begin = path, begin
        self._file: int | None = None
        self._whole: int | None = None
        self._waiting: collections.deque[bytes] = collections.deque()
        self._dropped = 0
        self._failed: float | None = None

    def add(self, piece: bytes) -> None:
        """Append a piece, which is with the system when this returns, or waits."""
        if len(self._waiting) == _MOST:
            self._waiting.popleft()
            self._dropped += 1
        self._waiting.append(piece)
        if self._failed is None or time.monotonic() - self._failed >= _AGAIN:
            self._try()

    def close(self) -> None:
        """Write what waits, if that is possible now, and close the file; a later piece opens it again."""
        if self._waiting:
            self._try()
        self._leave()
        if lost := self._dropped + len(self._waiting):
            logging.info("%s lacks what could not be written (%d pieces)", self._path, lost)
            self._waiting.clear()
            self._dropped = 0

    def _try(self) -> None:
        try:
            if self._file is None:
                self._open()
            while self._waiting:
                self._put(self._waiting[0])
                self._waiting.popleft()
        except OSError as error:
            self._leave()
            if self._failed is None:
                logging.warning("cannot write %s: %s; the run goes on, and tries again", self._path, error.strerror)
            self._failed = time.monotonic()
            return
        if self._failed is not None:
            lost = f"{self._dropped} pieces before are lost" if self._dropped else "nothing is missing"
            logging.info("%s is written again: %s", self._path, lost)
            self._failed, self._dropped = None, 0

    def _open(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Without O_NONBLOCK, opening a pipe waits for its reader.
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        self._file = os.open(self._path, flags, 0o666)
        if not stat.S_ISREG(os.fstat(self._file).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file", os.fspath(self._path))
        if self._whole is not None:
            self._cut(self._whole)
        elif self._begin is None:
            files.whole_lines(self._file)
        if self._begin and os.fstat(self._file).st_size == 0:
            self._put(self._begin)

    def _put(self, piece: bytes) -> None:
        size = os.fstat(self._file).st_size
        rest = memoryview(piece)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            self._whole = size
            with contextlib.suppress(OSError):
                self._cut(size)
            raise

    def _cut(self, size: int) -> None:
        """Take back what was written beyond the last whole piece; needs no room."""
        if os.fstat(self._file).st_size > size:
            os.ftruncate(self._file, size)
        self._whole = None

    def _leave(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            # Some file systems tell of a full disk only here.
            with contextlib.suppress(OSError):
                os.close(file)
