"""The numbers of a run for TensorBoard, where the package tensorboardX is installed, whose messages these files hold.

The files are not written by its SummaryWriter: a full disk ends the thread of that one, and whoever adds to its queue
then waits for ever.
"""

import contextlib
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from scratchpatch.data.extras import need
from scratchpatch.training.appended import Appended


class EventFiles:
    """Writes into a folder, after each start or truncation a new file. `write` never raises. Raises UserError where the
    package is missing, with the command that installs it.
    """

    def __init__(self, folder: Path):
        needed = "tensorboard", "writing TensorBoard's files"
        self._events = need("tensorboardX.proto.event_pb2", *needed)
        self._checksum = need("tensorboardX.record_writer", *needed).masked_crc32c
        self._folder = folder
        self._file: Appended | None = None
        self._hidden_from: int | None = None

    def write(self, step: int, values: Mapping[str, float | str | None]) -> None:
        """Add those values that are numbers; see `Appended.add`."""
        self._file = self._file or self._new_file()
        event = self._events.Event(wall_time=time.time(), step=step)
        for name, value in values.items():
            if isinstance(value, (int, float)):
                event.summary.value.add(tag=name, simple_value=value)
        self._file.add(self._record(event))

    def truncate(self, last_step: int) -> None:
        """Let TensorBoard hide what older files say of the steps after `last_step`."""
        self.close()
        self._hidden_from = last_step + 1

    def close(self) -> None:
        """Close the file; a later write begins a new one."""
        if self._file is not None:
            self._file.close()
        self._file = None

    def _new_file(self) -> Appended:
        now = time.time()
        begin = self._record(self._events.Event(wall_time=now, file_version="brain.Event:2"))
        if self._hidden_from is not None:
            start = self._events.SessionLog(status=self._events.SessionLog.START)
            begin += self._record(self._events.Event(wall_time=now, step=self._hidden_from, session_log=start))
        # Without a number of its own, a file started in the same second as another one would go on with that.
        number = 0
        with contextlib.suppress(OSError):
            number = len(os.listdir(self._folder))
        name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{number}"
        return Appended(self._folder / name, begin)

    def _record(self, event) -> bytes:
        """An event as a file of TensorBoard holds it: size and data, each with its checksum."""
        data = event.SerializeToString()
        pieces = struct.pack("<Q", len(data)), data
        return b"".join(piece + struct.pack("<I", self._checksum(piece)) for piece in pieces)
