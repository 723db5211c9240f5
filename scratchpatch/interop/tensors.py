"""Named arrays in safetensors files.

One file, or the shards that an index names, as Hugging Face lays them out.
Nothing is ever unpickled. The folder may be anyone's: an index that names a
file elsewhere, or does not say what the files hold, is refused.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TypedDict

import ml_dtypes  # noqa: F401 (gives NumPy the half-precision types that the files may hold)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from scratchpatch import files, json_files, output
from scratchpatch.errors import UserError

FILE = "model.safetensors"
# While it is being written. Who has made this file has the folder, see `save`.
WRITING = f"{FILE}.tmp"
_INDEX = f"{FILE}.index.json"
# What is read, each by its own type; integers, bool and 8 bits mean something else than their values.
_FLOATS = ("F64", "F32", "F16", "BF16")
# Of arrays that are wrong so many are told, and of what others wrote so many characters.
_TOLD, _LONGEST = 20, 400


class _Index(TypedDict):
    weight_map: dict[str, str]


class Tensors:
    """The arrays of a folder, read when they are asked for.

    Attributes:
      shapes: name to shape.

    Raises:
      UserError: no safetensors file, one that cannot be read or holds arrays that are no floats, or an index that
        disagrees with its shards.
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        index = self._folder / _INDEX
        named = _weight_map(index) if index.exists() else None
        paths = {FILE: _only(self._folder)} if named is None else _shards(index, named)
        self._files = {name: _File(path) for name, path in paths.items()}
        self._where: dict[str, str] = {}
        for name, file in self._files.items():
            for key in file.stored.keys():
                if key in self._where:
                    raise UserError(f"{self._folder} holds tensor {shown(key)} twice, in {self._where[key]} and {name}")
                self._where[key] = name
        if named is not None:
            _agree(index, named, self._where)
        slices = {key: self._files[name].stored.get_slice(key) for key, name in self._where.items()}
        if odd := [f"{shown(key)} is {x.get_dtype()}" for key, x in slices.items() if x.get_dtype() not in _FLOATS]:
            raise UserError(f"{self._folder} holds arrays of other types than {', '.join(_FLOATS)}: {several(odd)}")
        self.shapes = {key: tuple(x.get_shape()) for key, x in slices.items()}

    def read(self, name: str, index: tuple[slice, ...] | None = None, dtype=np.float32) -> np.ndarray:
        """One array as `dtype`, or a piece of it; of the file no more is read than that.

        index: a slice, of step 1, for each axis.

        Raises:
          UserError: the file is not what its header says.
        """
        found = self._files[self._where[name]].read(name, index)
        # What a narrower type has no number for becomes infinite there.
        with np.errstate(over="ignore"):
            return found.astype(dtype, copy=False)


class _File:
    """One file, open."""

    def __init__(self, path: Path):
        self._path = path
        try:
            # The library would wait for the writer of a pipe.
            self._raw = files.open_regular(path)
            self.stored = safe_open(str(path), framework="numpy")
        except (SafetensorError, OSError) as error:
            raise self._unreadable(getattr(error, "strerror", None) or error) from error
        self._size = os.fstat(self._raw.fileno()).st_size

    def read(self, name: str, index: tuple[slice, ...] | None) -> np.ndarray:
        # The library maps the file: a page that is gone would end this process by a signal.
        if os.fstat(self._raw.fileno()).st_size < self._size:
            raise self._unreadable("it is shorter than it was")
        try:
            return self.stored.get_tensor(name) if index is None else self.stored.get_slice(name)[index]
        except (SafetensorError, OSError) as error:
            raise self._unreadable(f"{name}: {error}") from error

    def _unreadable(self, reason: object) -> UserError:
        return UserError(f"cannot read {self._path}: {shown(reason)}; fetch it again")


def _only(folder: Path) -> Path:
    """The file of a folder without an index."""
    path = folder / FILE
    if not path.exists():
        pickled = sorted(p.name for p in folder.glob("*.bin"))
        hint = f"; {pickled[0]} would have to be unpickled: save it anew as safetensors" if pickled else ""
        raise UserError(f"{folder} holds neither {FILE} nor {_INDEX}{hint}")
    return path


def _weight_map(index: Path) -> dict[str, str]:
    """Array to file, as an index says."""
    try:
        return json_files.read(index, _Index)["weight_map"]
    except json_files.Malformed as error:
        raise UserError(f"cannot read {shown(error)}; fetch it again") from error
    except OSError as error:
        raise UserError(f"cannot read {index}: {error.strerror}") from error


def _shards(index: Path, named: Mapping[str, str]) -> dict[str, Path]:
    """Name to path of the files that an index names."""
    found = {}
    for key, name in named.items():
        if name not in found:
            try:
                found[name] = _path(index.parent, name)
            except ValueError as error:
                raise UserError(f"{index}: weight_map.{shown(key)}: {shown(error)}; fetch the checkpoint again") from error
    missing = sorted(shown(name) for name, path in found.items() if not os.path.exists(path))
    if missing:
        raise UserError(f"{index.parent} lacks {several(missing)}, which {_INDEX} names: fetch the rest")
    return found


def _path(folder: Path, name: str) -> Path:
    """The path of a shard, by the name that an index has for it.

    The cache of Hugging Face's hub keeps its files in a folder `blobs`, and below `snapshots`, beside it, links to
    them: those are followed, and no others.

    Raises:
      ValueError: the name leads out of the folder.
    """
    inside = Path(os.path.realpath(folder))
    hub = next((above.parent for above in inside.parents if above.name == "snapshots"), None)
    if hub is not None and "/" not in name and os.path.islink(inside / name):
        target = Path(os.path.realpath(inside / name))
        if target.parent == hub / "blobs":
            return files.below(hub / "blobs", target.name)
    return files.below(folder, name)


def _agree(index: Path, named: Mapping[str, str], where: Mapping[str, str]) -> None:
    """Raise a UserError unless the index names each array, and the file that it is in."""
    wrong = [
        f"weight_map.{shown(key)} is {shown(name)}, but that array is in {where.get(key, 'no file')}"
        for key, name in named.items()
        if where.get(key) != name
    ]
    wrong += [f"weight_map lacks {shown(key)}, which is in {name}" for key, name in where.items() if key not in named]
    if wrong:
        raise UserError(f"{index} disagrees with the files: {several(wrong)}; fetch the checkpoint again")


def save(folder: Path, tensors: Mapping[str, np.ndarray], about: dict[str, str]) -> None:
    """Write model.safetensors, with `about` in its header, into an empty folder: whole, or not at all.

    The first of several writers has the folder.

    Raises:
      OSError: it cannot be written.
      FileExistsError: the folder holds something.
    """
    path, temporary = folder / FILE, folder / WRITING
    with temporary.open("xb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
    try:
        if [entry.name for entry in folder.iterdir()] != [WRITING]:
            raise FileExistsError(f"{folder} holds something")
        save_file({name: np.asarray(x, order="C") for name, x in tensors.items()}, str(temporary), metadata=about)
        # The library makes files that only their owner may read, and does not wait until they are on the disk.
        os.chmod(temporary, mode)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except SafetensorError as error:
        raise OSError(0, shown(error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def size_and_checksum(folder: Path) -> list[int]:
    """Bytes and CRC-32 of model.safetensors. Raises UserError where it cannot be read."""
    try:
        with files.open_regular(folder / FILE) as file:
            return files.size_and_checksum(file)
    except OSError as error:
        raise UserError(f"cannot read {folder / FILE}: {error.strerror}") from error


def problems(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Every missing, extra and misshapen array, in words."""
    missing = [f"missing {name} {list(wanted[name])}" for name in wanted if name not in found]
    extra = [f"extra {shown(name)} {list(found[name])}" for name in found if name not in wanted]
    misshapen = [
        f"{name} has shape {list(found[name])}, wanted {list(wanted[name])}"
        for name in wanted
        if name in found and tuple(found[name]) != tuple(wanted[name])
    ]
    return missing + extra + misshapen


def several(words: list[str]) -> str:
    """Some words in one line that a terminal can hold."""
    more = len(words) - _TOLD
    return "; ".join(words[:_TOLD]) + (f"; and {more} more" if more > 0 else "")


def shown(text: object) -> str:
    """What others may have written, as one printable line."""
    return output.one_line(text, _LONGEST)
