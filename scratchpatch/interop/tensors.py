"""Named arrays in safetensors files.

One file, or the shards that an index names, as Hugging Face lays them out.
Nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes  # noqa: F401 (gives NumPy the half-precision types that the files may hold)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from scratchpatch.errors import UserError

_FILE = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class Tensors:
    """The arrays of a folder, read when they are asked for.

    Attributes:
      shapes: name to shape.

    Raises:
      UserError: no safetensors file, one that cannot be read, or an index that disagrees with its shards.
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        self._files = self._open(self._shards())
        self._where: dict[str, str] = {}
        for name, file in self._files.items():
            for key in file.keys():
                if key in self._where:
                    raise UserError(f"{self._folder} holds tensor {key} twice, in {self._where[key]} and {name}")
                self._where[key] = name
        self.shapes = {key: tuple(self._files[name].get_slice(key).get_shape()) for key, name in self._where.items()}

    def read(self, name: str, index: tuple[slice, ...] | None = None, dtype=np.float32) -> np.ndarray:
        """One array as `dtype`, or a piece of it; of the file no more is read than that.

        index: a slice, of step 1, for each axis.

        Raises:
          UserError: the file is not what its header says.
        """
        file = self._files[self._where[name]]
        try:
            found = file.get_tensor(name) if index is None else file.get_slice(name)[index]
        except (SafetensorError, OSError) as error:
            raise UserError(f"cannot read {name} in {self._folder / self._where[name]}: {error}; fetch it again") from error
        return found.astype(dtype, copy=False)

    def _shards(self) -> list[str]:
        index = self._folder / _INDEX
        if not index.exists():
            if not (self._folder / _FILE).exists():
                pickled = sorted(p.name for p in self._folder.glob("*.bin"))
                hint = f"; {pickled[0]} would have to be unpickled: save it anew as safetensors" if pickled else ""
                raise UserError(f"{self._folder} holds neither {_FILE} nor {_INDEX}{hint}")
            return [_FILE]
        try:
            shards = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"cannot read {index}: {error or type(error).__name__}") from error
        missing = [name for name in shards if not (self._folder / name).exists()]
        if missing:
            raise UserError(f"{self._folder} lacks {', '.join(missing)}, which {_INDEX} names: fetch the rest")
        return shards

    def _open(self, shards: list[str]) -> dict:
        files = {}
        for name in shards:
            try:
                files[name] = safe_open(str(self._folder / name), framework="numpy")
            except (SafetensorError, OSError) as error:
                raise UserError(f"cannot read {self._folder / name}: {error}; fetch it again") from error
        return files


def save(folder: str | Path, tensors: Mapping[str, np.ndarray], about: dict[str, str]) -> None:
    """Write model.safetensors with `about` in its header."""
    contiguous = {name: np.asarray(x, order="C") for name, x in tensors.items()}
    save_file(contiguous, str(Path(folder) / _FILE), metadata=about)


def problems(wanted: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Every missing, extra and misshapen array, in words."""
    missing = [f"missing {name} {list(wanted[name])}" for name in wanted if name not in found]
    extra = [f"extra {name} {list(found[name])}" for name in found if name not in wanted]
    misshapen = [
        f"{name} has shape {list(found[name])}, wanted {list(wanted[name])}"
        for name in wanted
        if name in found and tuple(found[name]) != tuple(wanted[name])
    ]
    return missing + extra + misshapen
