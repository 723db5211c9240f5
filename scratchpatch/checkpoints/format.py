"""What is in a checkpoint: its names on disk, what describes it, and the checksums that prove it.

    checkpoints/200/state/        the arrays after 200 optimizer steps, in files that orbax writes (see `arrays`)
    checkpoints/200/about.json    {"about": the description of the step, see `About`, "checksum": CRC-32 of "about"}
    checkpoints/200.partial/      a step that is being written; it is renamed once all of it is there
    checkpoints/200.deleted/      a step that is being removed
    checkpoints/200.damaged/      a step that a run found damaged and set aside; nothing reads it

A state is a dict whose top-level keys ('params', 'optimizer', ...) are stored apart, so that one can be read without
the others. Below them any pytree of numeric arrays goes: only the paths of its leaves are stored.

The folder of a step lies on this machine or at a URL (see `data.paths`). Anyone may have written it: a description that
does not have the shape of `About` is damage, and a file that it names is a regular file below the step, reached through
no link.
"""

import errno
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NotRequired, TypedDict, TypeVar

import ml_dtypes
import msgspec
import numpy as np

from scratchpatch import json_files
from scratchpatch.data import paths
from scratchpatch.errors import first_line
from scratchpatch.json_files import Count

STATE = "state"
ABOUT = "about.json"
# The most bytes of about.json; the rest of a longer file is cut off, and what is left is no JSON.
_MOST_BYTES = 1 << 28
# These errors prove that a file is not there, is no regular file, or has a name that no file can have. After any other
# error of a disk or a network, the next try may succeed.
_GONE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_NO_FILE = (errno.EINVAL, errno.ELOOP, errno.ENAMETOOLONG)
# Seconds before another try to read.
_PAUSES = (0.2, 1.0)
T = TypeVar("T")
# The folder of a step: a path of this machine, or a URL as a string.
Folder = str | Path
# Path under state/ to size in bytes and CRC-32.
Checksums = dict[str, list[int]]


class _Array(TypedDict):
    shape: list[Count]
    dtype: str


class _Metrics(TypedDict, total=False):
    """The metrics that something is decided by; others may be there."""

    validation_bpb: Annotated[float, msgspec.Meta(ge=0, le=1e9)] | None
    validation_bytes: Count | None


class About(TypedDict):
    """The description of a step."""

    schema: NotRequired[Any]  # of the names in it, see `scratchpatch.schema`; absent in schema 1
    config: dict[str, Any]  # field to value of the run's config, see `config.flat`
    step: Count  # optimizer steps done
    version: str  # of the package that wrote it
    metrics: _Metrics  # what was measured at this step: name to number, text, or None
    arrays: dict[str, _Array]  # path of a leaf, such as 'params.trunk.kernel', to the array's shape and dtype
    files: dict[str, tuple[Count, Count]]  # path under state/ to the file's size in bytes and CRC-32


class _Sealed(TypedDict):
    about: About
    checksum: Count


class NotWhole(Exception):
    """A stored step that is not known to be whole; says why."""


class Damaged(NotWhole):
    """A stored step that cannot be trusted."""


class Unreadable(NotWhole):
    """A stored step that could not be read in several tries, which proves nothing about it."""


def step_number(name: str) -> int | None:
    """The step that a folder of this name holds; None for a name that no step has, such as '0008' or '٨'."""
    return int(name) if name.isascii() and name.isdecimal() and str(int(name)) == name else None


class StepFolder:
    """A folder of steps, of this machine or at a URL. Methods raise OSError, or what another file system raises."""

    def __init__(self, folder: str | Path):
        self.folder = folder

    def steps(self) -> list[int]:
        """The stored steps, oldest first, damaged ones included."""
        return sorted(step for name in self._names() if (step := step_number(name)) is not None)

    def location(self, step: int | str) -> str:
        """The folder of a step, which may be missing, or of a name that lies beside the steps."""
        return paths.join(os.fspath(self.folder), str(step))

    def beside(self, *kinds: str) -> list[str]:
        """The names STEP.KIND beside the steps, oldest step first; without kinds those of every kind."""
        kinds = kinds or ("damaged", "partial", "deleted")
        names = [name.partition(".") for name in self._names()]
        names = [(step_number(step), kind) for step, _, kind in names if kind in kinds]
        return [f"{step}.{kind}" for step, kind in sorted(name for name in names if name[0] is not None)]

    def _names(self) -> list[str]:
        folder = os.fspath(self.folder)
        try:
            if not paths.is_url(folder):
                return os.listdir(folder)
            return [path.rstrip("/").rpartition("/")[2] for path in paths.system(folder).ls(folder, detail=False)]
        except FileNotFoundError:
            return []


def checksums(step: Folder, chosen: Callable[[str], bool]) -> Checksums:
    """Size and CRC-32 of the files under STEP/state, on this machine, whose names are chosen. Raises OSError."""
    state = Path(step) / STATE
    names = sorted(str(path.relative_to(state)) for path in state.rglob("*") if path.is_file())
    return {name: paths.size_and_checksum(str(state / name)) for name in names if chosen(name)}


def write_about(step: Folder, about: dict[str, Any]) -> None:
    """Write about.json, which makes a step of the folder. Raises OSError."""
    paths.write_text(paths.join(os.fspath(step), ABOUT), _sealed(about))


def read_about(step: Folder) -> dict[str, Any]:
    """The description of a step, a folder named '200' or '200.partial', see `About`. Raises Damaged or Unreadable."""

    def head() -> bytes:
        with paths.open_read(path_below(step, ABOUT)) as file:
            return file.read(_MOST_BYTES)

    text = _patiently(ABOUT, head)
    try:
        # Thresholds may be infinite.
        about = json_files.parse(text, _Sealed, constants=True)["about"]
    except json_files.Malformed as error:
        raise Damaged(f"{ABOUT} cannot be read: {error}") from error
    if _sealed(about).encode() != text:
        raise Damaged(f"the checksum of {ABOUT} is wrong")
    if step_number(PurePosixPath(step).name.partition(".")[0]) != about["step"]:
        raise Damaged(f"it holds step {about['step']}, which is not its folder's name")
    for name, array in about["arrays"].items():
        if not _is_dtype(array["dtype"]):
            raise Damaged(f"{ABOUT}: about.arrays: {name} has dtype {array['dtype']!r}, which does not exist")
    return about


def file_paths(step: Folder) -> Iterator[str]:
    """The files of a step, about.json first, because it names the others. Raises Damaged or Unreadable."""
    yield paths.join(os.fspath(step), ABOUT)
    yield from (path_below(step, f"{STATE}/{name}") for name in read_about(step)["files"])


def path_below(step: Folder, name: str) -> str:
    """The path of a file of a step by a name such as 'state/params/manifest.ocdbt'. Raises Damaged."""
    try:
        return paths.below(os.fspath(step), name)
    except ValueError as error:
        raise Damaged(str(error)) from error


def check_files(
    step: Folder, about: dict[str, Any], skipped: Collection[str] = (), advance: Callable[[int], None] | None = None
) -> None:
    """Raise Damaged unless the files are those that were written, Unreadable where that cannot be told. Folders in
    `skipped`, directly under STEP/state, are not looked at. `advance` is called with the bytes of each piece.
    """
    count = None if advance is None else lambda piece: advance(len(piece))
    for name, (size, checksum) in about["files"].items():
        if name.split("/")[0] not in skipped:
            name = f"{STATE}/{name}"
            path = path_below(step, name)
            size_now, checksum_now = _patiently(name, lambda path=path: paths.size_and_checksum(path, count))
            if size_now != size:
                raise Damaged(f"{name} holds {size_now} bytes instead of {size}")
            if checksum_now != checksum:
                raise Damaged(f"the checksum of {name} is wrong")


def score(about: dict[str, Any]) -> float:
    """What the best step has the least of: 'validation_bpb' in bits per byte; infinite where it was not measured."""
    value = about["metrics"].get("validation_bpb")
    return math.inf if value is None else value


def is_missing(error: OSError) -> bool:
    """Whether an error proves that a file is not there, or is no regular file."""
    return isinstance(error, _GONE) or error.errno in _NO_FILE


def _is_dtype(name: str) -> bool:
    """Whether arrays of numbers may have a dtype of this name."""
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError):
        return False
    return dtype.name == name and (dtype.kind in "biufc" or hasattr(ml_dtypes, name))


def _sealed(about: dict[str, Any]) -> str:
    text = json.dumps(about, sort_keys=True)
    return json.dumps({"about": about, "checksum": zlib.crc32(text.encode())}, sort_keys=True)


def _patiently(name: str, read: Callable[[], T]) -> T:
    """What `read` returns, tried again after an error that may pass. Raises Damaged or Unreadable."""
    pauses = iter(_PAUSES)
    while True:
        try:
            return read()
        except OSError as error:
            reason = f"{name} cannot be read: {error.strerror or first_line(error)}"
            if is_missing(error):
                raise Damaged(reason) from error
            pause = next(pauses, None)
            if pause is None:
                raise Unreadable(reason) from error
            time.sleep(pause)
