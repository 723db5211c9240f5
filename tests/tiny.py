"""Configs and rows so small that a model compiles in seconds.

Legend: B rows, L byte positions, M = L + 1 tokens.
"""

import functools
import json
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from scratchpatch import config as config_lib
from scratchpatch.model import loss as loss_lib, weights as weights_lib
from scratchpatch.model.predictors import PAIRS
from scratchpatch.patching import layout
from scratchpatch.patching.rows import Rows, pack as pack_rows
from scratchpatch.patching.scores import AGES, Signals
from scratchpatch.vocabulary import BYTES

WINDOW = 72
BOS, PAD = BYTES.bos, BYTES.pad


FIELDS = {
    "data.window": WINDOW,
    "model.d_byte": 16,
    "model.encoder.layers": 1,
    "model.encoder.heads": 2,
    "model.encoder.window": 12,
    "model.entropy_head.layers": 1,
    "model.pooling.heads": 2,
    "model.trunk.layers": 2,
    "model.trunk.d_model": 32,
    "model.trunk.heads": 4,
    "model.trunk.kv_heads": 2,
    "model.decoder.layers": 1,
    # Unlike the encoder's, so that one taken for the other shows.
    "model.decoder.heads": 4,
    "model.decoder.window": 9,
    "patching.patch_bytes": 5,
    "patching.max_patch_bytes": 9,
    "training.batch_rows": 8,
    "training.steps": 20,
    "optimizer.warmup_steps": 4,
    "mesh.data": 1,
}


def config(fields=None):
    """A checked tiny config; `fields` maps dotted names to values."""
    made, fields = config_lib.default(), fields or {}
    # What a trigger reads, a model must have.
    needs = {"learned": {"model.benefit.width": 8}, "score": {"model.benefit.table": True}}
    for name, value in {**FIELDS, **needs.get(fields.get("trigger.kind"), {}), **fields}.items():
        config_lib.set_field(made, name, value)
    config_lib.check(made)
    return made


def text(rng: np.random.Generator, size: int) -> np.ndarray:
    """Bytes with words, spaces, digits, UTF-8 lead and continuation bytes, and any others."""
    common = np.frombuffer(b"abcdefg  .,1\n\xc3\xa9\xe2\x82\xac", np.uint8)
    return np.where(rng.random(size) < 0.9, rng.choice(common, size), rng.integers(0, 256, size)).astype(np.int32)


def pack(rng: np.random.Generator, lengths, length: int, inside: bool = False, pad: int = 0) -> np.ndarray:
    """One row, int32 [length]: documents of `lengths` bytes, the last one cut or filled up, then PAD.

    Args:
      inside: whether the row begins inside a document, so that its first one has no BOS.
      pad: positions of PAD at the end.
    """
    tokens = []
    for i, size in enumerate((*lengths, length)):
        tokens += [] if inside and i == 0 else [BYTES.bos]
        tokens += text(rng, size).tolist()
    return np.array(tokens[: length - pad] + [BYTES.pad] * pad, np.int32)


def batch(seed: int = 0, rows: int = 2, length: int = WINDOW + 1) -> np.ndarray:
    """int32 [rows, length]: packed documents.

    Row 0 holds one longer than a chunk of the controller; odd rows begin inside a document; the last row ends in PAD.
    """
    rng = np.random.default_rng(seed)
    sizes = [rng.integers(2, length // 2, 3) if r else [2, length] for r in range(rows)]
    return np.stack(
        [pack(rng, sizes[r], length, inside=r % 2 == 1, pad=7 if r == rows - 1 else 0) for r in range(rows)]
    )


def _key(made) -> str:
    return json.dumps(config_lib.flat(made))


@functools.lru_cache
def _forward(key: str):
    definition, _ = weights_lib.abstract(config_lib.from_flat(json.loads(key)))
    return jax.jit(lambda w, tokens_BL: weights_lib.merge(definition, w)(tokens_BL))


@functools.lru_cache
def _with_gradient(key: str):
    made = config_lib.from_flat(json.loads(key))
    definition, _ = weights_lib.abstract(made)

    def value(params, w, tokens_BM):
        output = weights_lib.merge(definition, {**w, "params": params})(tokens_BM[:, :-1])
        nats_BL = loss_lib.nats(output.logits_BLV, tokens_BM[:, 1:], BYTES)
        if output.head_logits_BLV is not None:
            nats_BL += loss_lib.nats(output.head_logits_BLV, tokens_BM[:, 1:], BYTES)
        return nats_BL.mean(), output

    gradient = jax.grad(value, has_aux=True)
    return jax.jit(lambda w, tokens_BM: gradient(w["params"], w, tokens_BM))


@functools.lru_cache
def _weights(key: str):
    made = config_lib.from_flat(json.loads(key))
    # Drawn here, because a model's own initialisation takes seconds to compile.
    _, weights = weights_lib.abstract(made)

    def draw(path, x):
        name = jax.tree_util.keystr(path)
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if "scale" in name:
            return rng.uniform(0.7, 1.3, x.shape).astype(np.float32)
        deviation = 1.0 if "'embedding'" in name else x.shape[-2] ** -0.5 if x.ndim > 1 else 0.02
        sharpen = 3.0 if "projection" in name and x.shape[-1] == BYTES.rows else 1.0
        return jnp.asarray(rng.normal(size=x.shape) * deviation * sharpen, jnp.float32)

    drawn = jax.tree_util.tree_map_with_path(draw, weights)
    start = layout.initial_thresholds(made)
    if weights["thresholds"]:
        drawn["thresholds"] = {"patching_threshold": start.patching, "trigger_threshold": start.trigger}
    if "statistics" in weights:
        # Of a hundred measurements: means of 0 and 2, deviations of 1; of the pairs each a few.
        drawn["statistics"] = jax.tree.map(lambda x: jnp.array([100.0, 0, 100], jnp.float32), weights["statistics"])
        if "dependence" in drawn["statistics"]:
            rng = np.random.default_rng(5)
            count_K = rng.integers(0, 40, PAIRS).astype(np.float32)
            nats_K = count_K * rng.normal(0.1, 0.2, PAIRS).astype(np.float32)
            entropy = jnp.array([100.0, 200, 500], jnp.float32)
            drawn["statistics"]["dependence"] = {"count": count_K, "nats": nats_K, "entropy": entropy}
    return drawn


def weights(made):
    """Random weights of a config, {'params', 'thresholds'}: built once, not to be changed in place.

    Norm scales differ from 1, and logits are far enough apart for entropies to differ.
    """
    return _weights(_key(made))


def forward(made):
    """Compiled (weights, tokens_BL) -> Output; the same function for equal configs."""
    return _forward(_key(made))


def with_gradient(made):
    """Compiled (weights, tokens_BM) -> (gradient of the mean nats, Output)."""
    return _with_gradient(_key(made))


def with_thresholds(w, **thresholds):
    """Weights with other thresholds: `patching` or `trigger`, in nats."""
    new = {f"{name}_threshold": jnp.float32(value) for name, value in thresholds.items()}
    return {**w, "thresholds": {**w["thresholds"], **new}}


def rows(tokens_BL) -> Rows:
    """The rows of a batch of byte tokens."""
    return pack_rows(jnp.asarray(tokens_BL), BYTES)


def benefits(entropy_BL) -> jax.Array:
    """Benefits that are made up from entropies, another one for each age of the context: float32 [B, L, M]."""
    return (jnp.asarray(entropy_BL)[..., None] - 2) * (1 + jnp.arange(AGES, dtype=jnp.float32) / 8)


def signals(entropy_BL) -> Signals:
    """These entropies, and what is made up from them: benefits, and boundaries where the entropy is above 2 nats."""
    return Signals(jnp.asarray(entropy_BL), benefits(entropy_BL), jnp.asarray(entropy_BL) / 4)


def decide(made, tokens_BL, entropy_BL, scratchpads: bool = True, **thresholds) -> layout.Layout:
    """The layout of a batch at the config's thresholds, or at others, with or without scratchpads."""
    start = layout.initial_thresholds(made)
    patching = jnp.float32(thresholds.get("patching", start.patching))
    trigger = jnp.float32(thresholds.get("trigger", start.trigger))
    at = layout.Thresholds(patching, trigger)
    return layout.decide(made, rows(tokens_BL), signals(entropy_BL), at, scratchpads)
