"""From byte states to logits: of the model, and of its entropy head.

Legend: B rows, L positions, d byte width, V rows of the vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from scratchpatch import config as config_lib
from scratchpatch.model import layers
from scratchpatch.model.stack import ByteTier
from scratchpatch.patching.rows import Rows
from scratchpatch.sharding import constrain
from scratchpatch.vocabulary import Vocabulary


class Logits(nnx.Module):
    """Norm and projection, added up in float32; -1e30 in the rows that have no part in the probability."""

    def __init__(self, name: str, config, dtype, rngs: nnx.Rngs):
        m, self.rows = config.model, config_lib.vocabulary(config).rows
        self.targets, self.name = config_lib.target_rows(config), name
        self.norm = layers.norm(m.d_byte, m.norm_eps, dtype, rngs)
        names = ("width", "vocabulary")
        self.projection = layers.linear(m.d_byte, self.rows, names, dtype, rngs, scale=0.1, out=jnp.float32)

    def __call__(self, x_BLd) -> jax.Array:
        logits_BLV = self.projection(self.norm(x_BLd))
        logits_BLV = jnp.where(np.arange(self.rows) < self.targets, logits_BLV, -1e30)
        return constrain(logits_BLV, f"{self.name}.logits", "local_rows", "positions", None)


def entropy(logits_BLV: jax.Array) -> jax.Array:
    """Entropy of the next token in nats, float32 [B, L]."""
    log_p_BLV = jax.nn.log_softmax(logits_BLV, axis=-1)
    return -(jnp.exp(log_p_BLV) * log_p_BLV).sum(axis=-1)


def nats(logits_BLV: jax.Array, targets_BL: jax.Array, vocabulary: Vocabulary) -> jax.Array:
    """Negative log-likelihood of each target in nats, float32 [B, L]; 0 at PAD."""
    top_BL = jax.nn.logsumexp(logits_BLV, axis=-1)
    safe_BL = jnp.minimum(targets_BL, vocabulary.bos)
    hit_BL = jnp.take_along_axis(logits_BLV, safe_BL[..., None], axis=-1)[..., 0]
    return jnp.where(targets_BL == vocabulary.pad, 0.0, top_BL - hit_BL)


class EntropyHead(nnx.Module):
    """Window layers on the encoder's states, and next-byte logits (arXiv 2605.09630, app. B.3).

    It does not depend on the patch layout, so every decision is known before the trunk runs.
    """

    def __init__(self, config, rngs: nnx.Rngs):
        dtype = layers.activation_dtype(config)
        encoder, head = config.model.encoder, config.model.entropy_head
        self.stop_gradient = head.stop_gradient
        self.layers = ByteTier("entropy_head", config, head.layers, encoder.heads, encoder.window, dtype, rngs)
        self.logits = Logits("entropy_head", config, dtype, rngs)

    def __call__(self, h_BLd, rows: Rows) -> jax.Array:
        if self.stop_gradient:
            h_BLd = jax.lax.stop_gradient(h_BLd)
        return self.logits(self.layers(h_BLd, rows))
