"""A model in pieces: every stage compiled by itself, once, and shared by all configs that hold it.

`ByteLM.__call__` joins the pieces as it is, uncompiled: so a model of any
combination of options costs milliseconds, not the seconds of a compilation.
"""

import functools
import types
import zlib

import jax
import numpy as np

from scratchpatch.model import weights as weights_lib
from scratchpatch.model.byte_lm import ByteLM
from scratchpatch.patching import layout
from tests import tiny

_DECIDE = layout.decide

FIELDS = {
    "data.window": 24,
    "model.encoder.window": 6,
    "model.decoder.window": 6,
    "model.trunk.layers": 1,
    "model.decoder.context_vectors": 2,
    "patching.patch_bytes": 4,
    "patching.max_patch_bytes": 4,
    # The same slots for every patchifier and trigger.
    "patching.capacity": 0.5,
    "trigger.capacity": 0.75,
    "trigger.stride": 2,
}

# What each piece depends on, of the fields that combinations vary.
READS = {
    "encoder": ("model.encoder.layers",),
    "entropy_head": (),
    "pooling": ("model.pooling.kind", "model.pooling.last_state", "patching.kind"),
    "trunk": (),
    "decoder": ("model.decoder.layers", "model.decoder.injection"),
    "decide": ("patching.kind", "trigger.kind", "patching.gain", "trigger.gain"),
}


def random_weights(abstract):
    """Weights of these shapes; a leaf of the same name and shape is the same in every model."""

    def leaf(path, x):
        name = jax.tree_util.keystr(path)
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if x.ndim == 0 or "scale" in name:
            return rng.uniform(0.7, 1.3, x.shape).astype(x.dtype)
        # Logits far enough apart for entropies to differ.
        return (rng.standard_normal(x.shape) * 2 * x.shape[-2:][0] ** -0.5).astype(x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, abstract)


@functools.lru_cache
def _piece(name: str, fields: tuple):
    config = tiny.config(FIELDS | dict(fields))
    if name == "decide":
        return jax.jit(functools.partial(_DECIDE, config), compiler_options=tiny.QUICK)
    definition, abstract = weights_lib.abstract(config)

    def run(weights, *args, commits=None):
        part = getattr(weights_lib.merge(definition, weights), name)
        return part(*args) if commits is None else part(*args, commits)

    jitted = jax.jit(run, static_argnames="commits")
    return functools.partial(jitted, random_weights(abstract))


def piece(name: str, fields: dict):
    """The compiled stage of a model with these fields."""
    return _piece(name, tuple((f, fields[f]) for f in READS[name] if f in fields))


class Model:
    """The model of some fields, joined of pieces: weights (its thresholds alone are read), tokens -> Output."""

    def __init__(self, fields: dict):
        self.config = tiny.config(FIELDS | fields)
        trunk = piece("trunk", fields)
        self._parts = {name: piece(name, fields) for name in ("encoder", "entropy_head", "pooling", "decoder")}
        self._parts["trunk"] = lambda x, slots, commits: trunk(x, slots, commits=commits)
        self._decide = piece("decide", fields)
        start = layout.initial_thresholds(self.config)
        self.weights = {"thresholds": {"patching_threshold": start.patching, "trigger_threshold": start.trigger}}

    def __call__(self, weights, tokens_BL, probe_BLd=None):
        t = weights["thresholds"]
        thresholds = layout.Thresholds(t["patching_threshold"], t["trigger_threshold"])
        joined = types.SimpleNamespace(config=self.config, thresholds=lambda: thresholds, **self._parts)
        layout.decide = lambda config, *args: self._decide(*args)
        try:
            return ByteLM.__call__(joined, tokens_BL, probe_BLd)
        finally:
            layout.decide = _DECIDE
