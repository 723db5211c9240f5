"""Any model as safetensors and a config.json, and back; scratchpatch/README.md has the names and shapes of arrays.

    folder/model.safetensors    the arrays as float32 (half precision is read, too), named by their path in the model
    folder/config.json          {"schema", "version", "step", "config": every field, "checksum": [bytes, CRC-32] of the
                                other file; of a model of tokens "tokenizer", the digest of tokenizer.json}
    folder/tokenizer.json       of a model of tokens: a copy of its tokenizer
"""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Required, TypedDict

import jax
import numpy as np

import scratchpatch
from scratchpatch import config as config_lib, config_file, json_files, schema
from scratchpatch.data import tokenizer
from scratchpatch.errors import UserError
from scratchpatch.files import replace_text
from scratchpatch.interop import safetensors_folder
from scratchpatch.interop.safetensors_folder import SafetensorsFolder, printable
from scratchpatch.model import weights as weights_lib

# `model.stack.Stack` keeps its layers under this name; a layer may have a part called block of its own.
_STACKED = re.compile(r"(.*?\bstack\.block)\.(?!\d+\.)(.+)")
# A number has one spelling, or one of two arrays would be lost.
_LAYER = re.compile(r"(.*?\bstack\.block)\.(0|[1-9][0-9]{0,8})\.(.+)")


class _About(TypedDict, total=False):
    config: Required[dict[str, Any]]
    step: json_files.Count
    # Folders of older versions, and configs that people write for arrays of theirs, have none.
    checksum: tuple[json_files.Count, json_files.Count]
    tokenizer: str


def vacant(folder: str | Path) -> None:
    """Raise a UserError unless a model can be written there: a new folder, or an empty one."""
    folder = Path(folder)
    try:
        if os.path.lexists(folder) and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} holds something: name a new folder")
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}") from error


def export(lm, folder: str | Path, layout: str = "stacked") -> None:
    """Write a model (an `inference.LanguageModel`) into a new or empty folder. config.json comes last: a folder without
    one is no model, and is what a kill leaves. What fails leaves nothing. layout: 'stacked': one array for a stack of
    layers; 'unstacked': one for each layer. `Exported` reads both. Raises UserError where the folder holds something,
    or cannot be written; or weights are not finite.
    """
    folder = Path(folder)
    vacant(folder)
    about = {"schema": schema.CURRENT, "version": scratchpatch.__version__, "step": lm.step}
    about["config"] = config_lib.flat(lm.config)
    weights = weights_lib.named(weights_lib.finite(lm.weights, "the model"), ".")
    arrays = {name: np.asarray(x) for name, x in weights.items()}
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        arrays = _unstacked(arrays) if layout == "unstacked" else arrays
        safetensors_folder.save(folder, arrays, {"format": "scratchpatch"})
        try:
            about |= tokenizer.keep(folder, lm.config)
            about["checksum"] = safetensors_folder.size_and_checksum(folder)
            replace_text(folder / "config.json", json.dumps(about, indent=1) + "\n")
        except BaseException:
            for name in (safetensors_folder.FILE, config_file.TOKENIZER):
                with contextlib.suppress(OSError):
                    (folder / name).unlink()
            raise
    except BaseException as error:
        if is_new:
            # A folder that holds what others wrote stays.
            with contextlib.suppress(OSError):
                folder.rmdir()
        if isinstance(error, FileExistsError):
            raise UserError(f"{folder} holds something: name a new folder") from error
        if isinstance(error, OSError):
            raise UserError(f"cannot write into {folder}: {error.strerror}") from error
        raise


class Exported:
    """A folder that `export` wrote, its arrays not yet read; abstract: the weights as jax.ShapeDtypeStructs. Raises
    UserError for no config, one that cannot be, or arrays that are missing, extra or misshapen: all of them named.
    """

    def __init__(self, folder: str | Path):
        self._folder = Path(folder)
        self.config, about = _read_about(self._folder / "config.json")
        self.step, self._checksum = about.get("step", 0), about.get("checksum")
        _, self.abstract = weights_lib.abstract(self.config)
        self._stored = SafetensorsFolder(folder)
        self._names_of = _sources(self._stored.shapes)
        wanted = {name: x.shape for name, x in weights_lib.named(self.abstract, ".").items()}
        if faults := safetensors_folder.mismatches(wanted, {name: self._shape(name) for name in self._names_of}):
            raise UserError(
                f"{folder} does not hold the arrays that its config names: {safetensors_folder.summary(faults)}"
            )

    def prove(self) -> None:
        """Read the arrays' file once; raise UserError where it does not agree with a checksum in config.json."""
        if self._checksum and safetensors_folder.size_and_checksum(self._folder) != list(self._checksum):
            raise UserError(
                f"{self._folder / safetensors_folder.FILE} is not what was exported (its size or checksum differs): "
                "export the model anew, or, where you have changed its numbers yourself, "
                "take `checksum` out of config.json"
            )

    def read(self, part: dict[str, Any]) -> dict[str, Any]:
        """Arrays in place of the leaves of `part`, some top-level keys of `abstract`. A leaf's sharding says where its
        array goes, and each device reads its own slice; without one it goes to the first device of this process.
        """
        leaves = [self._place(name, leaf) for name, leaf in weights_lib.named(part, ".").items()]
        return jax.tree.unflatten(jax.tree.structure(part), leaves)

    def _place(self, name: str, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        names = self._names_of[name]

        def piece(index: tuple[slice, ...]) -> np.ndarray:
            if names == [name]:
                return self._stored.read(name, index, leaf.dtype)
            layer, *rest = index
            return np.stack([self._stored.read(each, tuple(rest), leaf.dtype) for each in names[layer]])

        sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        return jax.make_array_from_callback(leaf.shape, sharding, piece)

    def _shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array, also of one that is stored layer by layer."""
        first, *others = names = self._names_of[name]
        shapes = self._stored.shapes
        if names == [name]:
            return shapes[name]
        for other in others:
            if shapes[other] != shapes[first]:
                unlike = f"{printable(other)} has shape {list(shapes[other])}, unlike {first} {list(shapes[first])}"
                raise UserError(f"{unlike}: export the model anew")
        return (len(names), *shapes[first])


def _read_about(path: Path) -> tuple[Any, _About]:
    try:
        return config_file.document(path, _About)
    except FileNotFoundError as error:
        cause = "its export was cut off, or a part of it is missing"
        raise UserError(f"{path.parent} has no config.json: {cause}; export anew") from error
    except (json_files.Malformed, UserError) as error:
        where = "" if isinstance(error, json_files.Malformed) else f"{path}: "
        raise UserError(f"cannot read {where}{printable(error)}; export the model anew") from error
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _unstacked(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every array of a stack, cut into its layers; the others as they are."""
    cut = {}
    for name, array in arrays.items():
        if match := _STACKED.fullmatch(name):
            cut |= {f"{match[1]}.{i}.{match[2]}": layer for i, layer in enumerate(array)}
        else:
            cut[name] = array
    return cut


def _sources(names: Iterable[str]) -> dict[str, list[str]]:
    """The stacked names of some arrays of either layout, each with its layers' names in order, or its own alone."""
    layers: dict[str, dict[int, str]] = {}
    names_of: dict[str, list[str]] = {}
    for name in names:
        if match := _LAYER.fullmatch(name):
            layers.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = name
        else:
            names_of[name] = [name]
    for name, by_layer in layers.items():
        missing = next((i for i in range(len(by_layer)) if i not in by_layer), None)
        if missing is not None or name in names_of:
            what = "is there stacked and layer by layer" if missing is None else f"lacks layer {missing}"
            raise UserError(f"array {printable(name)} {what}: export the model anew")
        names_of[name] = [by_layer[i] for i in sorted(by_layer)]
    return names_of
