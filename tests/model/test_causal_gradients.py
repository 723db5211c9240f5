"""No logit depends on a later byte, on another document or on another row: by gradient.

The derivative must be exactly 0, one position at a time and for all positions
in one batched backward pass alike.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch.kernels import xla
from scratchpatch.model import weights
from tests import tiny
from tests.model.combinations import COMBINATIONS
from tests.patching.reference import spans

TOKENS_BL = tiny.batch()[:, :-1]
B, L = TOKENS_BL.shape
REAL = 257  # logits of bytes and of the end of a document


def may_depend() -> np.ndarray:
    """bool [B * L, B * L]: logits at the first position may depend on the byte at the second."""
    document = np.concatenate(
        [np.full(b - a, 100 * r + i) for r in range(B) for i, (a, b) in enumerate(spans(TOKENS_BL[r].tolist()))]
    )
    n = np.tile(np.arange(L), B)
    return (document[:, None] == document) & (n <= n[:, None])


@pytest.mark.parametrize("name, chunk", [("fixed-entropy", 16), ("entropy-entropy_jump", 512)])
def test_gradients_are_0_where_nothing_may_depend(monkeypatch, name, chunk):
    monkeypatch.setattr(xla, "CHUNK", chunk)
    config = tiny.config(COMBINATIONS[name])
    definition, _ = weights.abstract(config)
    w = tiny.with_thresholds(tiny.weights(config), patching=3.5, trigger=0.01 if "jump" in name else 3.5)
    mix_V = jnp.asarray(np.random.default_rng(0).normal(size=REAL), jnp.float32)
    probe_BLd = jnp.zeros((B, L, config.model.d_byte))

    def values(probe_BLd):
        return (weights.merge(definition, w)(TOKENS_BL, probe_BLd).logits_BLV[..., :REAL] @ mix_V).reshape(-1)

    one = jax.jit(jax.grad(lambda probe, i: values(probe)[i]))
    single = np.stack([one(probe_BLd, i) for i in range(B * L)]).reshape(B * L, B * L, -1)
    batched = np.asarray(jax.jit(jax.jacrev(values))(probe_BLd)).reshape(single.shape)

    may = may_depend()
    assert (single[~may] == 0).all()
    assert (batched[~may] == 0).all()
    assert (np.abs(single[may]).max(axis=-1) > 0).mean() > 0.9
    np.testing.assert_allclose(batched, single, rtol=1e-3, atol=1e-3)
