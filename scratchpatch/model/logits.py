"""From byte states to logits. Legend: B rows, L positions, d byte width, V rows of the vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from scratchpatch import vocabulary
from scratchpatch.model import layers
from scratchpatch.sharding import constrain


class Logits(nnx.Module):
    """Norm and projection, added up in float32; -1e30 in the rows that have no part in the probability."""

    def __init__(self, tier: str, model, dtype, rngs: nnx.Rngs):
        d, self.rows, self.tier = model.d_byte, model.target_rows, tier
        self.norm = layers.norm(d, model.norm_eps, dtype, rngs)
        self.projection = layers.linear(d, vocabulary.ROWS, ("width", "vocabulary"), dtype, rngs, scale=0.1, out=jnp.float32)

    def __call__(self, x_BLd) -> jax.Array:
        logits_BLV = self.projection(self.norm(x_BLd))
        logits_BLV = jnp.where(np.arange(vocabulary.ROWS) < self.rows, logits_BLV, -1e30)
        return constrain(logits_BLV, f"{self.tier}.logits", "local_rows", "positions", None)


def entropy(logits_BLV: jax.Array) -> jax.Array:
    """Entropy of the next token in nats, float32 [B, L]."""
    log_p_BLV = jax.nn.log_softmax(logits_BLV, axis=-1)
    return -(jnp.exp(log_p_BLV) * log_p_BLV).sum(axis=-1)
