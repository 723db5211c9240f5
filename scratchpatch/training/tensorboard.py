"""The numbers of a run for TensorBoard.

Its files hold messages of protocol buffers (Event and Summary of tensorflow/core), of which so few fields are needed
that they are written here: tensorboardX imports PyTorch wherever that is installed, for seconds, its checksums are
loops of Python, and a full disk ends its thread, for which whoever adds to its queue then waits for ever.
"""

import contextlib
import functools
import os
import socket
import struct
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from scratchpatch.training.appended import Appended

# The polynomial of CRC-32C, mirrored; and how many bytes are taken at a time.
_POLYNOMIAL, _PIECE = 0x82F63B78, 1024
_MASK = 0xFFFFFFFF
_LARGEST = float(np.finfo(np.float32).max)


class EventFiles:
    """Writes into a folder, after each start or truncation a new file. `write` never raises."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._file: Appended | None = None
        self._hidden_from: int | None = None

    def write(self, step: int, values: Mapping[str, float | str | None]) -> None:
        """Add those values that are numbers; see `Appended.add`."""
        self._file = self._file or self._new_file()
        numbers = [(name, value) for name, value in values.items() if isinstance(value, (int, float))]
        summary = b"".join(_tag(name) + struct.pack("<f", _clipped(value)) for name, value in numbers)
        self._file.add(_record(_event(step) + _field(5, summary)))

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
        begin = _record(_event(0) + _field(3, b"brain.Event:2"))
        if self._hidden_from is not None:
            # A session begins (SessionLog.START).
            begin += _record(_event(self._hidden_from) + _field(7, b"\x08\x01"))
        # Without a number of its own, a file started in the same second as another one would go on with that.
        number = 0
        with contextlib.suppress(OSError):
            number = len(os.listdir(self._folder))
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{number}"
        return Appended(self._folder / name, begin)


def checksum(data: bytes) -> int:
    """CRC-32C (RFC 3720)."""
    crc = _MASK
    for begin in range(0, len(data), _PIECE):
        piece_n = np.frombuffer(data, np.uint8, min(_PIECE, len(data) - begin), begin).copy()
        ahead = np.frombuffer(struct.pack("<I", crc), np.uint8)[: len(piece_n)]
        piece_n[: len(ahead)] ^= ahead
        # What a byte does to the checksum depends on how many bytes follow.
        changes_n = _table()[np.arange(len(piece_n) - 1, -1, -1), piece_n]
        crc = crc >> 8 * len(ahead) ^ int(np.bitwise_xor.reduce(changes_n))
    return crc ^ _MASK


@functools.lru_cache
def _table() -> np.ndarray:
    """uint32 [_PIECE, 256]: what a byte of each value does to the checksum, by the number of bytes that follow it."""
    change_256 = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        change_256 = change_256 >> 1 ^ (change_256 & 1) * np.uint32(_POLYNOMIAL)
    table = np.empty((_PIECE, 256), np.uint32)
    table[0] = change_256
    for follow in range(1, _PIECE):
        table[follow] = change_256[table[follow - 1] & 0xFF] ^ table[follow - 1] >> 8
    return table


def _record(event: bytes) -> bytes:
    """An event as a file of TensorBoard holds it: size and data, each with its masked checksum."""

    def checked(piece: bytes) -> bytes:
        crc = checksum(piece)
        return piece + struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & _MASK)

    return checked(struct.pack("<Q", len(event))) + checked(event)


def _event(step: int) -> bytes:
    """The fields wall_time and step of an Event."""
    return b"\x09" + struct.pack("<d", time.time()) + b"\x10" + _varint(step)


@functools.lru_cache(maxsize=1024)
def _tag(name: str) -> bytes:
    """A value of a Summary up to its four bytes of simple_value."""
    value = _field(1, name.encode(errors="replace")) + b"\x15"
    return b"\x0a" + _varint(len(value) + 4) + value


def _field(number: int, data: bytes) -> bytes:
    """A field that holds bytes, a text or a message."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])


def _clipped(value: float) -> float:
    return min(max(value, -_LARGEST), _LARGEST)
