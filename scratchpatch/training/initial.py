"""The weights that a new run starts from, where its config names a run or an exported folder."""

from __future__ import annotations

import jax
from absl import logging

from scratchpatch import config as config_lib
from scratchpatch.inference import language_model
from scratchpatch.model import weights as weights_lib


def load(config, shardings) -> dict:
    """The weights of `training.init_from`, placed as the run wants them.

    A threshold stays as it was there, unless the two configs name different
    ones: then it is the new config's.

    Args:
      config: the new run's.
      shardings: of its weights, see `model.weights.shardings`.
    Raises:
      UserError: nothing to load there, or arrays of another model: names them.
    """
    source = language_model.load(config.training.init_from)
    named = config_lib.changed(source.config, config)
    _, weights = weights_lib.redefine(config, source.weights, named=named)
    logging.info("weights of %s, step %d", config.training.init_from, source.step)
    return jax.device_put(weights, weights_lib.of(shardings))
