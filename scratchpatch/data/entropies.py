"""Entropies of a stream on disk: what `scratchpatch entropies` computes once and training reads.

    entropies/KEY.f32           float32, little-endian: one number per position of the stream
    entropies/KEY.f32.partial   its first positions, while it is computed

The number at position t is the entropy in nats of the token after t, given the tokens of its document up to t. A
beginning that nobody has gone on with for a month is removed when the next file is written.

Legend: R rows, L positions of a row.
"""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scratchpatch.data.stream import Stream
from scratchpatch.data.work_folder import lock_alone
from scratchpatch.errors import UserError
from scratchpatch.places import cache_folder

_DTYPE = np.dtype("<f4")
_PARTIAL, _ABANDONED_SECONDS = ".partial", 30 * 86_400


class Entropies:
    """The entropies of one stream, memory-mapped."""

    def __init__(self, values_T: np.ndarray):
        self._values_T = values_T

    def read_windows(self, windows_R: np.ndarray, window: int) -> np.ndarray:
        """float32 [R, L]: those of the inputs of each window (see `Stream.read_windows`), 0 beyond the end."""
        entropy_RL = np.zeros((len(windows_R), window), np.float32)
        for row, w in enumerate(windows_R):
            piece = self._values_T[int(w) * window :][:window]
            entropy_RL[row, : len(piece)] = piece
        return entropy_RL


def open_entropies(stream: Stream, model: str, cache_dir: str = "") -> Entropies:
    """The computed entropies of a stream by the model that has this checksum. Raises UserError, which names the
    command, where they are not there, or not all of them.
    """
    path = place(stream, model, cache_dir)
    if not whole(path, stream):
        raise UserError(
            f"data.entropies: {path.parent} holds none of {stream.spec} [{stream.split}] by this entropy model: "
            "run scratchpatch entropies --config=FILE with this config, or set data.entropies = False"
        )
    # A plain view of the map, because slicing a np.memmap costs more than copying a window does.
    return Entropies(np.asarray(np.memmap(path, _DTYPE, "r")))


def whole(path: Path, stream: Stream) -> bool:
    """Whether a finished file is there, with a number for each position."""
    return path.exists() and path.stat().st_size == len(stream) * _DTYPE.itemsize


def place(stream: Stream, model: str, cache_dir: str = "") -> Path:
    """Where the entropies of a stream by a model are, or will be."""
    return cache_folder(cache_dir) / "entropies" / f"{stream.key()}-{model}.f32"


class Writer:
    """Appends to one file of entropies; `written` positions are on the disk, also those of a killed process."""

    def __init__(self, file, path: Path):
        self._file, self._path = file, path
        self.written = os.fstat(file.fileno()).st_size // _DTYPE.itemsize

    def keep(self, positions: int) -> None:
        """Forget all but the first `positions`."""
        self._file.truncate(positions * _DTYPE.itemsize)
        self.written = positions

    def append(self, values_T: np.ndarray) -> None:
        """Write values onto the disk, so that a power cut leaves no zeros before later ones."""
        self._file.seek(self.written * _DTYPE.itemsize)
        self._file.write(values_T.astype(_DTYPE).tobytes())
        self._file.flush()
        os.fsync(self._file.fileno())
        self.written += len(values_T)

    def finish(self) -> None:
        """Give the file its name."""
        os.rename(self._file.name, self._path)


@contextlib.contextmanager
def writer(path: Path) -> Iterator[Writer]:
    """A writer of the file at `path`. Raises UserError where another process writes it, or it cannot be written."""
    partial = path.with_name(path.name + _PARTIAL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(partial)
        with open(partial, "r+b" if partial.exists() else "w+b") as file:
            lock_alone(file.fileno(), f"another process writes {partial}: wait for it")
            yield Writer(file, path)
    except OSError as error:
        fix = "free space there, or set data.cache_dir"
        raise UserError(f"cannot write {partial} ({error.strerror}); {fix}") from error


def _sweep(own: Path) -> None:
    """Remove the other beginnings that have no writer, and had none for long."""
    for partial in own.parent.glob(f"*{_PARTIAL}"):
        with contextlib.suppress(OSError):
            if partial != own and time.time() - partial.stat().st_mtime > _ABANDONED_SECONDS:
                with open(partial, "r+b") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    partial.unlink()
