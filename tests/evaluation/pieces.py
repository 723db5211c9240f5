"""A model in pieces: every stage compiled by itself, once, and shared by all configs that hold it.

`ByteLM.__call__` joins the pieces as it stands, uncompiled, so a model of any
combination of options costs milliseconds, not the seconds of a compilation.
"""

import contextlib
import functools
import types
import zlib

import jax
import numpy as np

from scratchpatch import config_fields
from scratchpatch.evaluation import audit
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
    "patching.patch_bytes": 4,
    "patching.max_patch_bytes": 4,
    "model.encoder.ngram_rows": 50,
    "model.entropy_model.d_byte": 16,
    "model.entropy_model.heads": 2,
    "model.entropy_model.window": 6,
    # The same slots for every patchifier and trigger.
    "patching.capacity": 0.5,
    "trigger.capacity": 0.75,
    "trigger.stride": 2,
}

HEADLESS, SEPARATE = {"model.entropy_head.weight": 0.0}, {"model.entropy_model.layers": 1}
TRUNKLESS = {"model.trunk.kind": "none", "model.entropy_head.weight": 0.0, "trigger.kind": "none"}

# What each piece depends on, of the fields that tests vary.
READS = {
    "encoder": ("model.encoder.layers", "model.encoder.kind", "model.encoder.ngrams"),
    "router": ("patching.kind",),
    "entropy_head": (),
    "entropy_model": ("model.entropy_model.layers",),
    "decide": (
        "patching.kind",
        "patching.commit_bos",
        "patching.capacity",
        "patching.jump",
        "trigger.kind",
        "trigger.capacity",
        "trigger.gain",
    ),
    # What triggers read of benefits, and the head that it comes from.
    "benefit_head": ("trigger.kind",),
    "_benefit": ("trigger.kind",),
    "pooling": ("model.pooling.kind", "model.pooling.last_state", "model.cross_residual", "patching.kind"),
    "trunk": ("model.trunk.kind", "model.trunk.kv_heads", "model.trunk.final_norm"),
    "decoder": (
        "model.decoder.layers",
        "model.decoder.kind",
        "model.decoder.residual",
        "model.decoder.injection",
        "model.decoder.scope",
        "model.cross_residual",
        "model.smoothing",
    ),
}


def pieces_of(config, fields: dict) -> dict[str, tuple]:
    """The pieces of a config's model, each with those (name, value) of the fields that it depends on."""
    m = config.model
    lacks = {"entropy_head": m.entropy_head.weight == 0, "entropy_model": m.entropy_model.layers == 0}
    lacks["router"] = config.patching.kind != "learned"
    lacks |= {
        "benefit_head": m.benefit.width == 0,
        "_benefit": config.trigger.kind not in config_fields.BENEFIT_TRIGGERS,
    }
    reads = {name: names for name, names in READS.items() if not lacks.get(name)}
    if m.trunk.kind == "none":
        reads = {"encoder": READS["encoder"], "decoder": ("model.decoder.layers", *TRUNKLESS)}
    if m.smoothing:
        reads["decoder"] += ("patching.kind",)
    # Pooling asks of the patchifier how long a patch may be, which is the same for all but this one; and between
    # patches of one byte no trigger is asked.
    idle = {("decide", "trigger.kind")} if config.patching.kind == "byte" else {("pooling", "patching.kind")}
    return {
        piece: tuple((name, fields[name]) for name in names if name in fields and (piece, name) not in idle)
        for piece, names in reads.items()
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


def _compile(name: str, fields: dict, plant=None):
    config = tiny.config(FIELDS | fields)
    plant = plant or contextlib.nullcontext()
    if name == "decide":

        def decide(*args):
            with plant:
                return _DECIDE(config, *args)

        return jax.jit(decide)
    definition, abstract = weights_lib.abstract(config)

    def run(weights, *args):
        with plant:
            return getattr(weights_lib.merge(definition, weights), name)(*args)

    # Without options of its own, which a program inside a gradient cannot have.
    compiled = jax.jit(run)
    # The weights go to the device here, and not in every call.
    return functools.partial(compiled, jax.device_put(random_weights(abstract)))


@functools.lru_cache
def _shared(name: str, fields: tuple):
    return _compile(name, dict(fields))


class Model:
    """(weights, tokens_BL, probe_BLd) -> Output of a tiny model with some fields; of its weights only thresholds count.

    Args:
      fields: dotted names to values, beside FIELDS.
      plants: piece -> a context (such as `mock.patch.object`) in which that piece alone is traced.
    """

    def __init__(self, fields: dict, plants: dict | None = None):
        self.config, plants = tiny.config(FIELDS | fields), plants or {}
        pieces = {
            name: _compile(name, fields, plants[name]) if name in plants else _shared(name, own)
            for name, own in pieces_of(self.config, fields).items()
        }
        self._decide = pieces.pop("decide", None)
        nothing = dict.fromkeys(("router", "entropy_head", "entropy_model", "benefit_head"))
        self._pieces = nothing | {"_benefit": lambda *_: None} | pieces
        start = layout.initial_thresholds(self.config)
        self.weights = {"thresholds": {"patching_threshold": start.patching, "trigger_threshold": start.trigger}}

    def __call__(self, weights, tokens_BL, probe_BLd=None):
        values = weights["thresholds"]
        thresholds = layout.Thresholds(values["patching_threshold"], values["trigger_threshold"])
        joined = types.SimpleNamespace(config=self.config, thresholds=lambda: thresholds, **self._pieces)

        def decide(config, *args, scratchpads=True):
            # The layout without scratchpads, by which the oracle measures, is no piece.
            return self._decide(*args) if scratchpads else _DECIDE(config, *args, scratchpads=False)

        layout.decide = decide
        try:
            return ByteLM.__call__(joined, tokens_BL, probe_BLd)
        finally:
            layout.decide = _DECIDE


def decisions(patchifier: str, trigger: str) -> dict:
    """Fields of a config."""
    return {"patching.kind": patchifier, "trigger.kind": trigger}


def report_of(model: Model, gradients: bool = False) -> audit.AuditReport:
    """The audit of a model joined of pieces; gradients too where asked for."""
    reached = functools.partial(audit.reached, model.config, lambda weights: functools.partial(model, weights))
    return audit.Auditor(model.config, model, reached if gradients else None).report(model.weights)
