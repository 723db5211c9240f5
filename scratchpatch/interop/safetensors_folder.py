"""Named arrays in a folder of safetensors files, laid out as Hugging Face does: one file, or shards and an index.

Nothing is ever unpickled. The folder may be anyone's.
"""

import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from scratchpatch import files, json_files, output
from scratchpatch.errors import UserError

FILE = "model.safetensors"
# The file has this name while it is written. Whoever has made it has the folder, see `save`.
_UNFINISHED = f"{FILE}.tmp"
_INDEX = f"{FILE}.index.json"
# These types are read, each by its own values; integers, bool and 8 bits mean something else than their values.
_FLOATS = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
# A message names at most so many faults, and repeats at most so many characters of what others wrote.
_MOST_FAULTS, _MOST_CHARACTERS = 20, 400


class _Index(TypedDict):
    weight_map: dict[str, str]


class SafetensorsFolder:
    """The arrays of a folder, read when they are asked for. shapes: name to shape. Raises UserError for no safetensors
    file, one that cannot be read or holds arrays that are no floats, or an index that disagrees with its shards.
    """

    def __init__(self, folder: str | Path):
        folder = Path(folder)
        index = folder / _INDEX
        weight_map = _weight_map(index) if index.exists() else None
        paths = {FILE: _single_file(folder)} if weight_map is None else _shards(index, weight_map)
        self._files = {name: _File(path) for name, path in paths.items()}
        self._file_of: dict[str, str] = {}
        for name, file in self._files.items():
            for key in file.arrays.keys():
                if key in self._file_of:
                    raise UserError(f"{folder} holds tensor {printable(key)} twice, in {self._file_of[key]} and {name}")
                self._file_of[key] = name
        if weight_map is not None:
            _check_weight_map(index, weight_map, self._file_of)
        slices = {key: self._files[name].arrays.get_slice(key) for key, name in self._file_of.items()}
        others = [f"{printable(key)} is {x.get_dtype()}" for key, x in slices.items() if x.get_dtype() not in _FLOATS]
        if others:
            raise UserError(f"{folder} holds arrays of other types than {', '.join(_FLOATS)}: {summary(others)}")
        self.shapes = {key: tuple(x.get_shape()) for key, x in slices.items()}

    def read(self, name: str, index: tuple[slice, ...] | None = None, dtype=np.float32) -> np.ndarray:
        """One array as `dtype`, or a piece of it; of the file no more is read than that. index: a slice, of step 1, for
        each axis. Raises UserError where the file is not what its header says.
        """
        array = self._files[self._file_of[name]].read(name, index)
        # What a narrower type has no number for becomes infinite there.
        with np.errstate(over="ignore"):
            return array.astype(dtype, copy=False)


class _File:
    """One open file; `arrays` is the library's view of it."""

    def __init__(self, path: Path):
        self._path = path
        try:
            # The library would wait for the writer of a pipe.
            self._bytes = files.open_regular(path)
            self.arrays = safe_open(str(path), framework="numpy")
        except (SafetensorError, OSError) as error:
            raise self._unreadable(getattr(error, "strerror", None) or error) from error
        self._size = os.fstat(self._bytes.fileno()).st_size

    def read(self, name: str, index: tuple[slice, ...] | None) -> np.ndarray:
        # The library maps the file: a page that is gone would end this process by a signal.
        if os.fstat(self._bytes.fileno()).st_size < self._size:
            raise self._unreadable("it is shorter than it was")
        try:
            return self.arrays.get_tensor(name) if index is None else self.arrays.get_slice(name)[index]
        except (SafetensorError, OSError) as error:
            raise self._unreadable(f"{name}: {error}") from error

    def _unreadable(self, reason: object) -> UserError:
        return UserError(f"cannot read {self._path}: {printable(reason)}; fetch it again")


def _single_file(folder: Path) -> Path:
    path = folder / FILE
    if not path.exists():
        pickled = sorted(p.name for p in folder.glob("*.bin"))
        hint = f"; {pickled[0]} would have to be unpickled: save it anew as safetensors" if pickled else ""
        raise UserError(f"{folder} holds neither {FILE} nor {_INDEX}{hint}")
    return path


def _weight_map(index: Path) -> dict[str, str]:
    try:
        return json_files.read(index, _Index)["weight_map"]
    except json_files.Malformed as error:
        raise UserError(f"cannot read {printable(error)}; fetch it again") from error
    except OSError as error:
        raise UserError(f"cannot read {index}: {error.strerror}") from error


def _shards(index: Path, weight_map: Mapping[str, str]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    for key, name in weight_map.items():
        if name not in paths:
            try:
                paths[name] = _shard(index.parent, name)
            except ValueError as error:
                reason = f"weight_map.{printable(key)}: {printable(error)}"
                raise UserError(f"{index}: {reason}; fetch the checkpoint again") from error
    missing = sorted(printable(name) for name, path in paths.items() if not os.path.exists(path))
    if missing:
        raise UserError(f"{index.parent} lacks {summary(missing)}, which {_INDEX} names: fetch the rest")
    return paths


def _shard(folder: Path, name: str) -> Path:
    """The path of a shard, by the name that an index has for it. Raises ValueError where it leads out of the folder.
    The cache of Hugging Face's hub keeps its files in a folder `blobs`, and below `snapshots`, beside it, links to
    them: those are followed, and no others.
    """
    inside = Path(os.path.realpath(folder))
    hub = next((above.parent for above in inside.parents if above.name == "snapshots"), None)
    if hub is not None and "/" not in name and os.path.islink(inside / name):
        target = Path(os.path.realpath(inside / name))
        if target.parent == hub / "blobs":
            return files.below(hub / "blobs", target.name)
    return files.below(folder, name)


def _check_weight_map(index: Path, weight_map: Mapping[str, str], file_of: Mapping[str, str]) -> None:
    """Raise a UserError unless the index names each array, and the file that it is in."""
    wrong = [
        f"weight_map.{printable(key)} is {printable(name)}, but that array is in {file_of.get(key, 'no file')}"
        for key, name in weight_map.items()
        if file_of.get(key) != name
    ]
    unnamed = [(key, name) for key, name in file_of.items() if key not in weight_map]
    wrong += [f"weight_map lacks {printable(key)}, which is in {name}" for key, name in unnamed]
    if wrong:
        raise UserError(f"{index} disagrees with the files: {summary(wrong)}; fetch the checkpoint again")


def save(folder: Path, arrays: Mapping[str, np.ndarray], header: dict[str, str]) -> None:
    """Write model.safetensors into an empty folder, whole or not at all; the first of several writers has the folder.
    Raises OSError where it cannot be written, a FileExistsError where the folder holds something.
    """
    unfinished = folder / _UNFINISHED
    with unfinished.open("xb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    try:
        if [entry.name for entry in folder.iterdir()] != [_UNFINISHED]:
            raise FileExistsError(f"{folder} holds something")
        save_file({name: np.asarray(x, order="C") for name, x in arrays.items()}, str(unfinished), metadata=header)
        # The library makes files that only their owner may read, and does not wait until they are on the disk.
        os.chmod(unfinished, mode)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, folder / FILE)
    except SafetensorError as error:
        raise OSError(0, printable(error)) from error
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()


def size_and_checksum(folder: Path) -> list[int]:
    """Bytes and CRC-32 of model.safetensors. Raises UserError where it cannot be read."""
    try:
        with files.open_regular(folder / FILE) as file:
            return files.size_and_checksum(file)
    except OSError as error:
        raise UserError(f"cannot read {folder / FILE}: {error.strerror}") from error


def mismatches(wanted: Mapping[str, tuple[int, ...]], stored: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Every missing, extra and misshapen array, in words."""
    missing = [f"missing {name} {list(wanted[name])}" for name in wanted if name not in stored]
    extra = [f"extra {printable(name)} {list(stored[name])}" for name in stored if name not in wanted]
    both = [(name, list(stored[name]), list(shape)) for name, shape in wanted.items() if name in stored]
    return missing + extra + [f"{name} has shape {there}, wanted {here}" for name, there, here in both if there != here]


def summary(faults: list[str]) -> str:
    """Some faults in one line that a terminal can hold."""
    more = len(faults) - _MOST_FAULTS
    return "; ".join(faults[:_MOST_FAULTS]) + (f"; and {more} more" if more > 0 else "")


def printable(text: object, longest: int = _MOST_CHARACTERS) -> str:
    """What others may have written, as one printable line."""
    return output.one_line(text, longest)
