"""Byte encoder. Legend: B rows, L byte positions, d byte width."""

import jax
from flax import nnx

from scratchpatch import vocabulary
from scratchpatch.model import layers, local
from scratchpatch.model.ngrams import NGrams
from scratchpatch.sharding import constrain


class Encoder(nnx.Module):
    """Byte embedding, plus those of hashed n-grams, then causal sliding-window layers; may have none of either."""

    def __init__(self, config, rngs: nnx.Rngs):
        d, tier = config.model.d_byte, config.model.encoder
        self.dtype = local.activation_dtype(config)
        self.embedding = layers.embedding(vocabulary.ROWS, d, 1.0, rngs)
        self.ngrams = NGrams(config, rngs) if config.model.encoder.ngrams else None
        self.layers = local.LocalStack("encoder", config, tier.layers, tier.heads, tier.window, self.dtype, rngs)

    def __call__(self, tokens_BL, start_BL, probe_BLd=None) -> jax.Array:
        """Byte states [B, L, d]. `probe_BLd` is added to the embedding (the audit differentiates by it)."""
        x_BLd = self.embedding(tokens_BL)
        if self.ngrams is not None:
            x_BLd = x_BLd + self.ngrams(tokens_BL, start_BL)
        x_BLd = constrain(x_BLd.astype(self.dtype), "encoder.embedding", "local_rows", "positions", None)
        if probe_BLd is not None:
            x_BLd = x_BLd + probe_BLd.astype(self.dtype)
        return self.layers(x_BLd, start_BL)
