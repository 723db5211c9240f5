"""A model as a static definition and plain trees of arrays.

`weights` is {'params': nested dict, 'thresholds': nested dict}: what gradients
change, and the thresholds that training carries along.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from ml_collections import FrozenConfigDict

from scratchpatch import compilation_cache
from scratchpatch.errors import UserError
from scratchpatch.model.byte_lm import ByteLM, Threshold
from scratchpatch.parallel import rules


def split(model: ByteLM):
    """(definition, weights) of a model."""
    definition, params, thresholds = nnx.split(model, nnx.Param, Threshold)
    return definition, {"params": nnx.to_pure_dict(params), "thresholds": nnx.to_pure_dict(thresholds)}


def merge(definition, weights) -> ByteLM:
    return nnx.merge(definition, weights["params"], weights["thresholds"])


def init(config, seed: int | jax.Array):
    """Random weights; the same for every mesh they are computed on. One compiled program serves all seeds."""
    return split(ByteLM(config, rngs=nnx.Rngs(params=jax.random.key(seed))))[1]


def random(config, seed: int):
    """`init`, compiled, on the first device."""
    return jax.jit(functools.partial(init, config), compiler_options=compilation_cache.quick())(jnp.uint32(seed))


def abstract(config):
    """(definition, weights as ShapeDtypeStructs), nothing computed."""
    definition, params, thresholds = _shape(FrozenConfigDict(config))
    return definition, {"params": nnx.to_pure_dict(params), "thresholds": nnx.to_pure_dict(thresholds)}


def shardings(config, mesh):
    """NamedShardings of `weights`, by the names of their axes.

    Raises:
      UserError: an axis that the mesh does not divide.
    """
    _, params, thresholds = _shape(FrozenConfigDict(config))
    params, thresholds = (rules.state_shardings(state, mesh) for state in (params, thresholds))
    return {"params": nnx.to_pure_dict(params), "thresholds": nnx.to_pure_dict(thresholds)}


@functools.lru_cache(maxsize=32)
def _shape(config: FrozenConfigDict):
    # Tracing a model takes most of a second, and a run asks several times.
    return nnx.split(nnx.eval_shape(lambda: ByteLM(config, rngs=nnx.Rngs(params=0))), nnx.Param, Threshold)


def redefine(config, weights, named=()):
    """(definition, weights) of another config on the same parameters.

    A threshold stays as trained, unless `named` (of 'patching.threshold' and
    'trigger.threshold') says that the config names it anew.

    Raises:
      UserError: the new config has other parameters; names them.
    """
    definition, wanted = abstract(config)
    have = {jax.tree_util.keystr(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(weights["params"])}
    want = {jax.tree_util.keystr(p): x.shape for p, x in jax.tree_util.tree_leaves_with_path(wanted["params"])}
    if have != want:
        other = sorted(k for k in have.keys() | want.keys() if have.get(k) != want.get(k))
        raise UserError(
            f"this change needs other parameters ({', '.join(other[:3])}{', ...' if len(other) > 3 else ''}): "
            "only patching.*, trigger.*, data.* and training.* can change on trained weights"
        )
    thresholds = dict(weights["thresholds"])
    for section in ("patching", "trigger"):
        if f"{section}.threshold" in named:
            thresholds[f"{section}_threshold"] = jnp.float32(config[section].threshold)
    return definition, {"params": weights["params"], "thresholds": thresholds}
