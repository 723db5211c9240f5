"""The weights that a new run starts from, where its config names a run or an exported folder for them."""

from __future__ import annotations

import jax
import numpy as np
from absl import logging

from scratchpatch import config as config_lib
from scratchpatch.errors import UserError
from scratchpatch.inference import loading as trained
from scratchpatch.interop import safetensors_folder
from scratchpatch.model import weights as weights_lib

# What an entropy model computes depends on these, and no shape of an array tells all of them.
_FIELDS = (
    "d_byte", "ffn_multiplier", "rope_theta", "norm_eps", "target_rows",
    "encoder.layers", "encoder.heads", "encoder.window", "encoder.ngrams", "decoder.layers",
)  # fmt: skip


def load(config, shardings) -> dict:
    """The parts of the weights that are not random at the start, each device with its own share; may be none.

    `training.init_from` gives all of them. A threshold stays as it was there,
    unless the two configs name different ones: then it is the new config's.
    Without it, `model.entropy_model.workdir` gives the entropy model's.

    No process and no device ever holds more than its share. All processes must ask.

    Args:
      config: the new run's.
      shardings: of its weights, see `model.weights.shardings`, or of those parts of them that are wanted.
    Raises:
      UserError: nothing to load there, or the arrays of another model: names them.
    """
    if config.training.init_from:
        return _all(config, shardings)
    if config.model.entropy_model.layers:
        return {"frozen": {"entropy_model": _entropy_model(config, shardings["frozen"]["entropy_model"])}}
    return {}


def _all(config, shardings) -> dict:
    """The weights of `training.init_from`, as far as there are shardings for them."""
    source = trained.find(config.training.init_from)
    named = config_lib.changed(source.config, config)
    _, wanted = weights_lib.redefine(config, source.abstract, named=named)
    parts = {part: _placed(x, shardings[part]) for part, x in source.abstract.items() if part in shardings}
    weights = source.read(parts)
    for name, value in wanted["thresholds"].items() if "thresholds" in weights else ():
        if not isinstance(value, jax.ShapeDtypeStruct):
            everywhere = shardings["thresholds"][name]
            weights["thresholds"][name] = jax.make_array_from_callback((), everywhere, lambda _, value=value: np.asarray(value))
    logging.info("weights of %s, step %d", config.training.init_from, source.step)
    return weights


def _entropy_model(config, shardings) -> dict:
    """The parameters of the run in `model.entropy_model.workdir`."""
    workdir = config.model.entropy_model.workdir
    if not workdir:
        raise UserError(
            "model.entropy_model.workdir is empty, and a random entropy model would choose the patches: train one "
            "(model.trunk.kind = 'none', see experiments/blt/entropy_small.py) and name its folder"
        )
    source = trained.find(workdir)
    if source.config.model.trunk.kind != "none":
        raise UserError(f"model.entropy_model.workdir: {workdir} holds a model with a trunk; wanted one of model.trunk.kind = 'none'")
    _, wanted = weights_lib.abstract(config_lib.entropy_model(config))
    bad = safetensors_folder.mismatches(weights_lib.shapes(wanted["params"]), weights_lib.shapes(source.abstract["params"]))
    mine, its = config_lib.entropy_model(config).model, source.config.model
    for name in _FIELDS:
        have, want = config_lib.get(its, name), config_lib.get(mine, name)
        if have != want:
            bad.append(f"model.{name} is {have!r} there, {want!r} by model.entropy_model")
    if bad:
        raise UserError(f"{workdir} is not the entropy model that model.entropy_model describes: {'; '.join(bad)}")
    if source.step < source.config.training.steps:
        logging.warning("%s is not finished: step %d of %d", workdir, source.step, source.config.training.steps)
    params = {"params": _placed(source.abstract["params"], shardings)}
    found = source.read(params)["params"]
    logging.info("entropy model of %s, step %d", workdir, source.step)
    return found


def _placed(abstract, shardings):
    return jax.tree.map(lambda x, sharding: x.update(sharding=sharding), abstract, shardings)
