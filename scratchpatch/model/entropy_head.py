"""Entropy head (paper app. B.3). Legend: B rows, L positions, d byte width, V vocabulary."""

import jax
from flax import nnx

from scratchpatch.model import local
from scratchpatch.model.logits import Logits


class EntropyHead(nnx.Module):
    """Window layers on the encoder's states, and next-byte logits.

    It does not depend on the patch layout, so every decision is known before
    the trunk runs.
    """

    def __init__(self, config, rngs: nnx.Rngs):
        dtype = local.activation_dtype(config)
        encoder, head = config.model.encoder, config.model.entropy_head
        self.stop_gradient = head.stop_gradient
        self.layers = local.LocalStack("entropy_head", config, head.layers, encoder.heads, encoder.window, dtype, rngs)
        self.logits = Logits("entropy_head", config.model, dtype, rngs)

    def __call__(self, h_BLd, start_BL) -> jax.Array:
        if self.stop_gradient:
            h_BLd = jax.lax.stop_gradient(h_BLd)
        return self.logits(self.layers(h_BLd, start_BL))
