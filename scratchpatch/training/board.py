"""The numbers of a run for TensorBoard, in files of events.

Written here and not by a SummaryWriter: a full disk ends the thread of that one, and whoever adds to its queue then waits
for ever.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.record_writer import masked_crc32c

from scratchpatch.training.appended import Appended


class Board:
    """Writes a file of its own into a folder.

    purge: the step from which on TensorBoard hides what older files say; None: nothing.
    """

    def __init__(self, folder: Path, purge: int | None):
        now = time.time()
        begin = _record(Event(wall_time=now, file_version="brain.Event:2"))
        if purge is not None:
            begin += _record(Event(wall_time=now, step=purge, session_log=SessionLog(status=SessionLog.START)))
        # Without a number of its own, a file started in the same second as another one would go on with that.
        number = 0
        with contextlib.suppress(OSError):
            number = len(os.listdir(folder))
        name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{number}"
        self._file = Appended(folder / name, begin)

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """See `Appended.add`."""
        event = Event(wall_time=time.time(), step=step)
        for name, value in values.items():
            event.summary.value.add(tag=name, simple_value=value)
        self._file.add(_record(event))

    def close(self) -> None:
        """See `Appended.close`."""
        self._file.close()


def _record(event: Event) -> bytes:
    """An event as a file of TensorBoard holds it: size and data, each with its checksum."""
    data = event.SerializeToString()
    size = struct.pack("<Q", len(data))
    return b"".join((size, struct.pack("<I", masked_crc32c(size)), data, struct.pack("<I", masked_crc32c(data))))
