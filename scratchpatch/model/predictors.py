"""What a scratchpad here would save, guessed from the past: by a small head, and by a table over the last two bytes.

Both learn from what `benefit` measures while the model trains; see there for the units. Legend: B rows, L byte
positions, d byte width, h hidden width, M ages of a context, K = 65,536 pairs of bytes.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from scratchpatch.model import layers
from scratchpatch.patching.scores import AGES

# Beside the encoder's state the head reads the entropy, its jump, and a constant.
EXTRA = 3
PAIRS = 1 << 16
# So many measurements at the mean of all pairs are added to those of each pair: rare ones stay near the mean.
PRIOR = 16.0


class Statistic(nnx.Variable):
    """Running sums over what was measured: carried by training, not learned by gradient."""


def standardised(x: jax.Array, moments_3: jax.Array) -> jax.Array:
    """x in deviations from its mean; as it is where nothing was measured.

    Args:
      moments_3: float32, how many values, their sum, and the sum of their squares.
    """
    count, total, squares = moments_3
    mean = total / jnp.maximum(count, 1.0)
    variance = jnp.where(count > 0, squares / jnp.maximum(count, 1.0) - mean**2, 1.0)
    return (x - mean) / jnp.sqrt(jnp.maximum(variance, 1e-8))


class BenefitHead(nnx.Module):
    """One hidden layer on the encoder's state, the entropy and its jump: nats that a scratchpad here would save.

    It answers for each age that the context may have, so it is known before the patches are. No gradient of it reaches
    what it reads.
    """

    def __init__(self, config, rngs: nnx.Rngs):
        m, dtype = config.model, layers.activation_dtype(config)
        self.norm = layers.norm(m.d_byte, m.norm_eps, dtype, rngs)
        self.hidden = layers.linear(m.d_byte + EXTRA, m.benefit.width, (None, None), dtype, rngs)
        self.nats = layers.linear(m.benefit.width, AGES, (None, None), dtype, rngs, scale=0.1, out=jnp.float32)
        self.moments = Statistic(jnp.zeros((3,), jnp.float32))

    def __call__(self, h_BLd, entropy_BL, before_BL) -> jax.Array:
        """float32 [B, L, M], nats.

        Args:
          entropy_BL, before_BL: float32, nats, at each byte and at the one before it (at a document's start the same).
        """
        entropy_BL, before_BL = jax.lax.stop_gradient((entropy_BL, before_BL))
        extra_BLe = jnp.stack([entropy_BL, entropy_BL - before_BL, jnp.ones_like(entropy_BL)], axis=-1)
        x_BLd = self.norm(jax.lax.stop_gradient(h_BLd))
        x_BLd = jnp.concatenate([x_BLd, extra_BLe.astype(x_BLd.dtype)], axis=-1)
        return self.nats(jax.nn.gelu(self.hidden(x_BLd)))

    def score(self, nats_BLM) -> jax.Array:
        """What the `learned` trigger holds against its threshold: its nats in deviations from their running mean."""
        return standardised(jax.lax.stop_gradient(nats_BLM), self.moments.get_value())


class Dependence(nnx.Module):
    """A table: how much a fresh context saved after each pair of bytes, on the training text so far.

    `count` and `nats` are running sums of measurements by pair, `entropy` are moments of the entropy where they were
    taken. A document's BOS stands in a pair as byte 0.
    """

    def __init__(self):
        self.count, self.nats = (Statistic(jnp.zeros((PAIRS,), jnp.float32)) for _ in range(2))
        self.entropy = Statistic(jnp.zeros((3,), jnp.float32))

    def score(self, weight: float, entropy_BL, token_BL, before_BL) -> jax.Array:
        """float32 [B, L]: entropy + weight * dependence, both in deviations from their running means.

        Args:
          token_BL, before_BL: int32, each token and the one before it (at a document's start the same).
        """
        dependence_BL = jnp.take(self.deviations(), pair(token_BL, before_BL))
        return standardised(entropy_BL, self.entropy.get_value()) + weight * dependence_BL

    def deviations(self) -> jax.Array:
        """float32 [K]: each pair's mean, drawn to the mean of all by PRIOR, in deviations over the text."""
        count_K, nats_K = self.count.get_value(), self.nats.get_value()
        measured = jnp.maximum(count_K.sum(), 1.0)
        mean_K = (nats_K + PRIOR * nats_K.sum() / measured) / (count_K + PRIOR)
        mean = (count_K * mean_K).sum() / measured
        variance = (count_K * (mean_K - mean) ** 2).sum() / measured
        return (mean_K - mean) / jnp.sqrt(jnp.maximum(variance, 1e-8))


def pair(token_BL: jax.Array, before_BL: jax.Array) -> jax.Array:
    """int32 [B, L]: the place of two bytes in a table."""
    return (before_BL & 0xFF) * 256 + (token_BL & 0xFF)
