"""Gradients in bfloat16 against those in float32, over as many bytes as a step may have; and what an embedding's cost.

Both precisions make the same decisions: entropies are given, not computed, and
are the same float32 numbers.

Legend: A parts, B rows of a part, L byte positions, M = L + 1 tokens.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.blt import small
from experiments.scale import sizes
from scratchpatch import config as config_lib
from scratchpatch.model import loss as loss_lib, weights as weights_lib
from scratchpatch.model.encoder import NGrams
from scratchpatch.model.pooling import take
from tests import tiny
from tests.tiny import BOS

NARROW = {
    "model.d_byte": 16,
    "model.encoder.heads": 2,
    "model.encoder.window": 16,
    "model.decoder.heads": 2,
    "model.decoder.window": 8,
    "model.pooling.heads": 2,
    "model.trunk.d_model": 16,
    "model.trunk.heads": 2,
    "model.trunk.kv_heads": 1,
    "model.trunk.layers": 1,
    "model.entropy_head.layers": 1,
    "model.decoder.layers": 1,
    "training.remat": "none",
}
# Rows long enough for the trunk's attention in blocks. Made this narrow, the quick start's model is this one on shorter
# rows.
SCRATCHPADS = {"data.window": 2048, "model.encoder.layers": 1}
# Two queries of 16 fill a trunk of 32; entropies are given, so the entropy model stands idle.
BLT = {"model.trunk.d_model": 32, "model.encoder.ngram_rows": 500, "model.entropy_model.workdir": ""}
BLT |= {"model.entropy_model.layers": 1, "model.entropy_model.d_byte": 8, "model.entropy_model.heads": 2}
PARTS, BYTES = 4, 24_576


def narrow(config, fields):
    made = config_lib.from_flat(config_lib.flat(config))
    for name, value in (NARROW | fields).items():
        config_lib.set_field(made, name, value)
    config_lib.check(made)
    return made


def text(length: int) -> np.ndarray:
    """int32 [A, B, M]: this project's own pages, from many places, each row a document."""
    pages = b"".join((Path(__file__).parents[2] / name).read_bytes() for name in ("BUILD.md", "README.md"))
    rows = BYTES // length
    starts = np.random.default_rng(0).integers(0, len(pages) - length, rows)
    rows_BM = [[BOS, *pages[start : start + length]] for start in starts]
    return np.array(rows_BM, np.int32).reshape(PARTS, -1, length + 1)


def gradient(config, weights, tokens_ABM, entropy_ABL):
    """The gradient of the loss over all parts, added up as the step does; and the scratchpads."""
    definition, _ = weights_lib.abstract(config)
    params, rest = weights["params"], {part: x for part, x in weights.items() if part != "params"}
    head, of = config.model.entropy_head.weight, jax.grad(loss_lib.loss, has_aux=True)

    def part(total, rows):
        g, sums = of(params, rest, definition, rows[0], jnp.float32(BYTES), head, rows[1])
        return jax.tree.map(jnp.add, total, g), sums["commits"] + sums["scratchpads"]

    zero = jax.tree.map(jnp.zeros_like, params)
    run = jax.jit(lambda *rows: jax.lax.scan(part, zero, rows))
    return run(tokens_ABM, entropy_ABL)


@pytest.mark.parametrize(
    "config, fields",
    [(small.get_config(), BLT), (sizes.scratchpads("150m"), SCRATCHPADS)],
    ids=["blt", "150m"],
)
def test_every_gradient_lies_within_2_percent_of_the_float32_one(config, fields):
    config = narrow(config, fields)
    tokens_ABM = text(config.data.window)
    # Uniform: the thresholds of both lie inside.
    entropy_ABL = np.random.default_rng(1).uniform(0, 4, tokens_ABM[..., 1:].shape).astype(np.float32)
    weights = tiny.weights(config)
    found = {}
    for dtype in ("float32", "bfloat16"):
        config.training.dtype = dtype
        found[dtype] = gradient(config, weights, tokens_ABM, entropy_ABL)
    (wanted, slots), (got, same) = found["float32"], found["bfloat16"]
    assert np.array_equal(slots, same) and slots.sum() > BYTES / 16
    wanted, got = (weights_lib.named(x, "/") for x in (wanted, got))
    off = {path: np.linalg.norm(got[path] - x) / np.linalg.norm(x) for path, x in wanted.items()}
    assert {path: share for path, share in off.items() if not share < 0.02} == {}


def test_memory_of_ngrams_does_not_grow_with_their_tables():
    tokens_BL = jnp.asarray(tiny.batch())

    def temporaries(table: int) -> int:
        config = tiny.config({"model.encoder.ngrams": (2, 3, 4, 5), "model.encoder.ngram_rows": table})
        definition, parameters = nnx.split(nnx.eval_shape(lambda: NGrams(config, nnx.Rngs(params=0))))
        rows = tiny.rows(tokens_BL)

        def value(parameters):
            return (nnx.merge(definition, parameters)(rows).astype(jnp.bfloat16) ** 2).sum()

        return jax.jit(jax.grad(value)).lower(parameters).compile().memory_analysis().temp_size_in_bytes

    assert temporaries(20_000) <= temporaries(200) + 1024


def test_what_is_taken_many_times_adds_up_its_gradient_in_float32():
    """As the null context is, and a slot by all the bytes that read it."""
    x_BLd, index_BN = jnp.ones((1, 2, 1), jnp.bfloat16), jnp.zeros((1, 3000), jnp.int32)
    value, gradient = jax.value_and_grad(lambda x: take(x, index_BN).astype(jnp.float32).sum())(x_BLd)
    assert value == 3000 and gradient.dtype == jnp.bfloat16
    assert gradient.ravel().tolist() == [float(jnp.bfloat16(3000)), 0]
