"""Any model as safetensors and a config.json, and back.

    folder/model.safetensors    arrays (written as float32; half precision is read, too), named by their path in the model: params.trunk.stack.block.ffn.up.kernel
    folder/config.json          {"schema", "version", "step", "config": every field, "checksum": [bytes, CRC-32] of the other file}

A kernel is [in, out]; the arrays of a stack of layers have the layer as first
axis, or are one for each layer (see `layers`); `thresholds.*` are scalars in nats; `frozen.entropy_model.*` is the
separate entropy model's. Thresholds that training moved are the arrays', not
the config's.
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Required, TypedDict

import jax
import numpy as np

import scratchpatch
from scratchpatch import config as config_lib
from scratchpatch import json_files, schema
from scratchpatch.errors import UserError
from scratchpatch.files import replace_text
from scratchpatch.interop import layers, tensors
from scratchpatch.model import finite
from scratchpatch.model import weights as weights_lib


class _About(TypedDict, total=False):
    config: Required[dict[str, Any]]
    step: json_files.Count
    checksum: tuple[json_files.Count, json_files.Count]


def vacant(folder: str | Path) -> None:
    """Raise a UserError unless a model can be written there: a new folder, or an empty one."""
    folder = Path(folder)
    try:
        if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} holds something: name a new folder")
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}") from error


def export(lm, folder: str | Path, layout: str = "stacked") -> None:
    """Write a model into a new or empty folder.

    config.json comes last: a folder without one is no model, and is what a kill leaves. What fails leaves nothing.

    Args:
      lm: an `inference.LanguageModel`: its config, weights and step are written.
      folder: for model.safetensors and config.json.
      layout: of its layers, 'stacked' or 'unstacked', see `layers`; `Exported` reads both.
    Raises:
      UserError: the folder holds something, or cannot be written; or weights are not finite.
    """
    folder = Path(folder)
    vacant(folder)
    about = {"schema": schema.CURRENT, "version": scratchpatch.__version__, "step": lm.step, "config": config_lib.flat(lm.config)}
    arrays = {name: np.asarray(x) for name, x in weights_lib.named(finite.checked(lm.weights, "the model"), ".").items()}
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tensors.save(folder, layers.unstacked(arrays) if layout == "unstacked" else arrays, {"format": "scratchpatch"})
        try:
            about["checksum"] = tensors.size_and_checksum(folder)
            replace_text(folder / "config.json", json.dumps(about, indent=1) + "\n")
        except BaseException:
            with contextlib.suppress(OSError):
                (folder / tensors.FILE).unlink()
            raise
    except BaseException as error:
        if made:
            # Where it holds what others wrote, it stays.
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, FileExistsError):
            raise UserError(f"{folder} holds something: name a new folder") from error
        if isinstance(error, OSError):
            raise UserError(f"cannot write into {folder}: {error.strerror}") from error
        raise


class Exported:
    """A folder that `export` wrote, its arrays not yet read.

    Attributes:
      config: of the model.
      step: optimizer steps behind the weights.
      abstract: the weights as jax.ShapeDtypeStructs.

    Raises:
      UserError: no config, one that cannot be, or arrays that are missing, extra or misshapen: all of them named.
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        self.config, self.step, self._checksum = _read_about(self._folder / "config.json")
        _, self.abstract = weights_lib.abstract(self.config)
        self._stored = stored = tensors.Tensors(folder)
        self._parts = parts = layers.stacks(stored.shapes)
        wanted = weights_lib.named(self.abstract, ".")
        found = {name: _shape(stored, parts[name], name) for name in parts}
        bad = tensors.problems({name: x.shape for name, x in wanted.items()}, found)
        if bad:
            raise UserError(f"{folder} does not hold the arrays that its config names: {tensors.several(bad)}")

    def prove(self) -> None:
        """Read the arrays' file once, and compare it with the checksum in config.json, if that has one.

        Raises:
          UserError: it is not what was exported.
        """
        if self._checksum and tensors.size_and_checksum(self._folder) != list(self._checksum):
            raise UserError(
                f"{self._folder / tensors.FILE} is not what was exported (its size or checksum differs): export the model anew, "
                "or, where you have changed its numbers yourself, take `checksum` out of config.json"
            )

    def read(self, part: dict[str, Any]) -> dict[str, Any]:
        """Arrays in place of the leaves of `part`.

        part: some top-level keys of `abstract`. A leaf's sharding says where its array goes, and each device reads its
          own slice; without one it goes to the first device of this process.
        """
        leaves = [self._place(name, leaf) for name, leaf in weights_lib.named(part, ".").items()]
        return jax.tree.unflatten(jax.tree.structure(part), leaves)

    def _place(self, name: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        parts = self._parts[name]

        def piece(index: tuple[slice, ...]) -> np.ndarray:
            if parts == [name]:
                return self._stored.read(name, index, leaf.dtype)
            layer, *rest = index
            return np.stack([self._stored.read(part, tuple(rest), leaf.dtype) for part in parts[layer]])

        sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.make_array_from_callback(leaf.shape, sharding, piece)


def _read_about(path: Path) -> tuple[Any, int, tuple[int, int] | None]:
    """(config, step, checksum) of an exported folder's config.json."""
    try:
        config, about = config_lib.document(path, _About)
    except FileNotFoundError as error:
        raise UserError(f"{path.parent} has no config.json: its export was cut off, or a part of it is missing; export anew") from error
    except json_files.Malformed as error:
        raise UserError(f"cannot read {tensors.shown(error)}; export the model anew") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error
    except UserError as error:
        raise UserError(f"cannot read {path}: {tensors.shown(error)}; export the model anew") from error
    # Folders of older versions, and configs that people write for arrays of theirs, have no checksum.
    return config, about.get("step", 0), about.get("checksum")


def _shape(stored: tensors.Tensors, parts: list[str], name: str) -> tuple[int, ...]:
    """Of the array `name`, made of these parts."""
    if parts == [name]:
        return stored.shapes[name]
    shapes = {part: stored.shapes[part] for part in parts}
    odd = next((part for part in parts if shapes[part] != shapes[parts[0]]), None)
    if odd:
        raise UserError(f"{tensors.shown(odd)} has shape {list(shapes[odd])}, unlike {parts[0]} {list(shapes[parts[0]])}: export the model anew")
    return (len(parts), *shapes[parts[0]])
