"""Byte encoder (DESIGN 3.2). Legend: B rows, L byte positions, d byte width."""

import jax
import jax.numpy as jnp
from flax import nnx

from scratchpatch import vocabulary
from scratchpatch.model import local
from scratchpatch.parallel.rules import constrain


class Encoder(nnx.Module):
    """Byte embedding, then causal sliding-window layers; may have none."""

    def __init__(self, config, rngs: nnx.Rngs):
        d, tier = config.model.d_byte, config.model.encoder
        self.dtype = local.activation_dtype(config)
        init = nnx.with_metadata(
            nnx.initializers.truncated_normal(1.0), sharding_names=("vocabulary", "width"), eager_sharding=False
        )
        self.embedding = nnx.Embed(
            vocabulary.ROWS, d, embedding_init=init, param_dtype=jnp.float32, dtype=self.dtype, rngs=rngs
        )
        self.layers = local.LocalStack(config, tier.layers, tier.heads, tier.window, self.dtype, rngs)

    def __call__(self, tokens_BL, start_BL, probe_BLd=None) -> jax.Array:
        """Byte states [B, L, d]. `probe_BLd` is added to the embedding (the audit differentiates by it)."""
        x_BLd = constrain(self.embedding(tokens_BL), "rows", "positions", None)
        if probe_BLd is not None:
            x_BLd = x_BLd + probe_BLd.astype(self.dtype)
        return self.layers(x_BLd, start_BL)
