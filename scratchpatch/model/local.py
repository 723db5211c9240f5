"""Byte tiers: stacks of sliding-window layers (encoder, entropy head, decoder).

Legend: B rows, L byte positions, d byte width.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from scratchpatch.kernels import window as window_kernel
from scratchpatch.model import layers
from scratchpatch.model.stack import Stack
from scratchpatch.patching import documents


def run(layer: layers.Block, x_BLd: jax.Array, start_BL: jax.Array, window: int, backend: str) -> jax.Array:
    """One window layer: positions count from the document's start. backend: config field kernels.window."""
    attend = lambda q, k, v: window_kernel.attend(q, k, v, start_BL, window, backend)  # noqa: E731
    return layer(x_BLd, documents.offsets(start_BL), attend)


class LocalStack(nnx.Module):
    """`depth` causal sliding-window layers, masked by document; 0 is the identity."""

    def __init__(self, name: str, config, depth: int, heads: int, window: int, dtype, rngs: nnx.Rngs):
        m = config.model
        self.window, self.backend = window, config.kernels.window
        tier = layers.local(name)
        self.stack = Stack(
            lambda rngs: layers.Block(m, m.d_byte, heads, heads, tier, depth, dtype, rngs),
            depth,
            config.training.remat,
            rngs,
        )

    def __call__(self, x_BLd, start_BL) -> jax.Array:
        return self.stack(x_BLd, lambda layer, x: run(layer, x, start_BL, self.window, self.backend))


def activation_dtype(config):
    return jnp.dtype(config.training.dtype)
