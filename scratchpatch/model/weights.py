"""A model as a static definition and plain trees of arrays.

`weights` is {'params': what gradients change, 'thresholds': what training carries along} and, where the model has an
entropy model of its own, 'frozen': what nothing changes; where it learns what scratchpads save, 'statistics': running
sums that training carries along; where it reads tokens, 'spelling': the bytes of each. Each is a nested dict of arrays.
"""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import FrozenConfigDict

from scratchpatch import compilation_cache, config as config_lib, sharding
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.model.byte_lm import ByteLM, Spelling, Threshold
from scratchpatch.model.predictors import Statistic

_SHOWN = 3  # arrays that a message names
PARTS = ("params", "thresholds", "frozen", "statistics", "spelling")


def select(state: dict) -> dict:
    """The weights among the parts of a training state."""
    return {part: state[part] for part in PARTS if part in state}


def _is_frozen(path, _) -> bool:
    return bool(path) and path[0] == "entropy_model"


def _separate(model_or_state):
    """(definition, weights) as nnx states."""
    definition, *states = nnx.split(model_or_state, _is_frozen, nnx.Param, Threshold, Statistic, Spelling)
    frozen, params, thresholds, statistics, spelling = states
    some = {"frozen": frozen, "statistics": statistics, "spelling": spelling}
    return definition, {"params": params, "thresholds": thresholds} | {k: x for k, x in some.items() if len(x)}


def split(model: ByteLM):
    """(definition, weights) of a model."""
    definition, states = _separate(model)
    return definition, {part: nnx.to_pure_dict(state) for part, state in states.items()}


def merge(definition, weights) -> ByteLM:
    """The model of a definition with these weights."""
    return nnx.merge(definition, *weights.values())


def init(config, seed: int | jax.Array):
    """Random weights; the same for every mesh they are computed on. One compiled program serves all seeds."""
    return split(ByteLM(config, rngs=nnx.Rngs(params=jax.random.key(seed))))[1]


def random(config, seed: int, mesh=None):
    """`init`, compiled, on the first device, or spread over a mesh."""
    places = None if mesh is None else shardings(config, mesh)
    program = jax.jit(
        functools.partial(init, config), out_shardings=places, compiler_options=compilation_cache.quick()
    )
    return program(np.uint32(seed))


def abstract(config):
    """(definition, weights as ShapeDtypeStructs), nothing computed.

    Configs that differ in their thresholds alone, which are weights, have equal definitions: what is compiled for one
    serves all.
    """
    definition, states = _shape(without_thresholds(config))
    return definition, {part: nnx.to_pure_dict(state) for part, state in states.items()}


def shardings(config, mesh):
    """NamedShardings of `weights`, by the names of their axes. Raises UserError where the mesh does not divide one."""
    _, states = _shape(without_thresholds(config))
    return {part: nnx.to_pure_dict(sharding.state_shardings(state, mesh)) for part, state in states.items()}


def without_thresholds(config) -> FrozenConfigDict:
    """The config with thresholds that stand for any."""
    neutral = {"patching.threshold": 1.0, "trigger.threshold": 1.0}
    return FrozenConfigDict(config_lib.from_flat(config_lib.flat(config) | neutral))


@functools.lru_cache(maxsize=32)
def _shape(config: FrozenConfigDict):
    # Tracing a model takes most of a second, and a run asks several times.
    return _separate(nnx.eval_shape(lambda: ByteLM(config, rngs=nnx.Rngs(params=0))))


def redefine(config, weights, named=()):
    """(definition, weights) of another config on the same parameters.

    A threshold stays as trained, unless `named` (of 'patching.threshold' and 'trigger.threshold') says that the config
    names it anew. Raises UserError, which names the parameters, where the new config has others.
    """
    definition, wanted = abstract(config)
    have, want = (shapes({k: w[k] for k in w if k != "thresholds"}) for w in (weights, wanted))
    if have != want:
        other = sorted(k for k in have.keys() | want.keys() if have.get(k) != want.get(k))
        raise UserError(
            f"this change needs other parameters ({', '.join(other[:3])}{', ...' if len(other) > 3 else ''}): "
            "only patching.*, trigger.*, data.* and training.* can change on trained weights"
        )
    thresholds = dict(weights["thresholds"])
    for section in ("patching", "trigger"):
        if f"{section}.threshold" in named:
            # A number of the host is taken wherever the other weights lie.
            thresholds[f"{section}_threshold"] = np.float32(config[section].threshold)
    return definition, {**weights, "thresholds": thresholds}


def shapes(weights) -> dict[str, tuple[int, ...]]:
    """Path, such as params/encoder/embedding/embedding, to shape."""
    return {path: x.shape for path, x in named(weights, "/").items()}


def named(weights, separator: str) -> dict:
    """Path to leaf, in the order of jax.tree.leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(weights)
    return {jax.tree_util.keystr(path, simple=True, separator=separator): x for path, x in leaves}


def finite(weights: dict[str, Any], where: str) -> dict[str, Any]:
    """The weights, or some of their parts, as they are, if a model can compute with them. All processes must ask.

    An infinite threshold stays: it is one that every entropy, or none, exceeds. Raises UserError for numbers that are
    not finite, which names the arrays and `where` they come from.
    """
    names = list(named(weights, "."))
    if not names:
        return weights
    mesh = mesh_lib.of(weights)
    with jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext():
        are_finite = jax.device_get(_compiled_check(mesh)(weights))
    bad = [name for name, fine in zip(names, are_finite, strict=True) if not fine]
    if bad:
        shown = ", ".join(bad[:_SHOWN]) + (f" and {len(bad) - _SHOWN} more arrays" if bad[_SHOWN:] else "")
        raise UserError(
            f"the weights of {where} hold NaN or infinite numbers, in {shown}: use those of another step, or train anew"
        )
    return weights


@functools.lru_cache
def _compiled_check(mesh):
    """Whether each array is fine, in the order of jax.tree.leaves: bool [arrays]."""

    def fine(weights):
        leaves = [(part, x) for part in sorted(weights) for x in jax.tree.leaves(weights[part])]
        return jnp.stack([(~jnp.isnan(x) if part == "thresholds" else jnp.isfinite(x)).all() for part, x in leaves])

    return jax.jit(fine, out_shardings=mesh_lib.everywhere(mesh), compiler_options=compilation_cache.quick())
