"""A disk that is full for some files, without a disk: `os.write` of them fails as the system has it."""

import errno
import os

NO_SPACE = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class Disk:
    """Files in whose path one of `names` occurs have room for so many bytes more; None: for all.

    What is written with os.write fills the rest of the room before it fails, as on a real disk.
    """

    def __init__(self, setattr, *names: str, room: int | None = 0):
        self.names, self.room = names, room
        self._write = os.write
        setattr(os, "write", self._some)

    def _some(self, file: int, data) -> int:
        path = os.readlink(f"/proc/self/fd/{file}")
        if self.room is None or not any(name in path for name in self.names):
            return self._write(file, data)
        if self.room == 0:
            raise NO_SPACE
        count = self._write(file, bytes(data)[: self.room])
        self.room -= count
        return count
