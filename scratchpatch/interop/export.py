"""Any model as safetensors and a config.json, and back.

    folder/model.safetensors    float32 arrays, named by their path in the model: params.trunk.stack.block.ffn.up.kernel
    folder/config.json          {"schema", "version", "step", "config": every field}

A kernel is [in, out]; the arrays of a stack of layers have the layer as first
axis, or are one for each layer (see `layers`); `thresholds.*` are scalars in nats; `frozen.entropy_model.*` is the
separate entropy model's. Thresholds that training moved are the arrays', not
the config's.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import scratchpatch
from scratchpatch import config as config_lib
from scratchpatch import schema
from scratchpatch.errors import UserError
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.interop import layers, tensors
from scratchpatch.model import weights as weights_lib
from scratchpatch.training import workdir as workdir_lib


def export(lm: LanguageModel, folder: str | Path, layout: str = "stacked") -> None:
    """Write a model into a new or empty folder.

    layout: of its layers, 'stacked' or 'unstacked', see `layers`; `load_exported` reads both.

    Raises:
      UserError: the folder holds something, or cannot be written.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} holds something: name a new folder")
    about = {"schema": schema.CURRENT, "version": scratchpatch.__version__, "step": lm.step, "config": config_lib.flat(lm.config)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        arrays = {name: np.asarray(x) for name, x in weights_lib.named(lm.weights, ".").items()}
        tensors.save(folder, layers.unstacked(arrays) if layout == "unstacked" else arrays, {"format": "scratchpatch"})
        (folder / "config.json").write_text(json.dumps(about, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror}") from error


def load_exported(folder: str | Path) -> LanguageModel:
    """The model of a folder that `export` wrote.

    Raises:
      UserError: no config, or arrays that are missing, extra or misshapen: all of them named.
    """
    config = workdir_lib.load_config(folder)
    config_lib.check(config)
    stored = tensors.Tensors(folder)
    _, abstract = weights_lib.abstract(config)
    wanted = weights_lib.named(abstract, ".")
    parts = layers.stacks(stored.shapes)
    bad = tensors.problems({name: x.shape for name, x in wanted.items()}, {name: _shape(stored, parts[name], name) for name in parts})
    if bad:
        raise UserError(f"{folder} does not hold the arrays that its config names: {'; '.join(bad)}")
    leaves = [jnp.asarray(_read(stored, parts[name], name)) for name in wanted]
    step = json.loads((Path(folder) / "config.json").read_text()).get("step", 0)
    return LanguageModel(config, jax.tree.unflatten(jax.tree.structure(abstract), leaves), step)


def _shape(stored: tensors.Tensors, parts: list[str], name: str) -> tuple[int, ...]:
    """Of the array `name`, made of these parts."""
    if parts == [name]:
        return stored.shapes[name]
    shapes = {part: stored.shapes[part] for part in parts}
    odd = next((part for part in parts if shapes[part] != shapes[parts[0]]), None)
    if odd:
        raise UserError(f"{odd} has shape {list(shapes[odd])}, unlike {parts[0]} {list(shapes[parts[0]])}: export the model anew")
    return (len(parts), *shapes[parts[0]])


def _read(stored: tensors.Tensors, parts: list[str], name: str) -> np.ndarray:
    return stored.read(name) if parts == [name] else np.stack([stored.read(part) for part in parts])
