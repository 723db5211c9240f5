"""From tokens to byte states: embeddings of bytes and of hashed n-grams, and the encoder's window layers.

N-grams are hashed as in BLT (arXiv 2412.09871, section 3.2.1). An n-gram's hash is the sum of id * prime^j in 64-bit
two's complement, the oldest byte at power 0, reduced to a table row by a floor modulus. Ids are BLT's:
BOS 1, byte b is b + 4, and 0 left of the document, so that no n-gram reads another document. JAX's integers are 32 bits
wide: the sum is kept in limbs of 16 bits.

Legend: B rows, L byte positions, X kinds of n-grams, d byte width.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from scratchpatch import config as config_lib
from scratchpatch.model import layers
from scratchpatch.model.stack import ByteTier
from scratchpatch.patching.rows import Rows
from scratchpatch.sharding import constrain

# By number of the hash function: part of the format of published weights.
PRIMES = (
    1000000007,
    5915587277,
    1500450271,
    3267000013,
    5754853343,
    4093082899,
    9576890767,
    3628273133,
    2860486313,
    5463458053,
    3367900313,
)


def blt_ids(rows: Rows) -> jax.Array:
    """uint32 [B, L]: BLT's ids of our tokens; 0 for PAD."""
    tokens_BL, bos = rows.tokens_BL, rows.vocabulary.bos
    return jnp.where(tokens_BL < bos, tokens_BL + 4, (tokens_BL == bos).astype(tokens_BL.dtype)).astype(jnp.uint32)


def table_rows(rows: Rows, n: int, prime: int, table: int) -> jax.Array:
    """uint32 [B, L]: the table row of the n-gram that ends at each position.

    prime: base of the hash. table: rows of the table, at most 2^21.
    """
    id_BL = blt_ids(rows)
    limbs = [jnp.zeros_like(id_BL)] * 4
    for back in range(n):
        shifted_BL = jnp.where(rows.offset_BL >= back, jnp.pad(id_BL, ((0, 0), (back, 0)))[:, : id_BL.shape[1]], 0)
        factor = pow(prime, n - 1 - back, 1 << 64)
        # An id has 9 bits: a limb of the sum stays far below 32.
        limbs = [limb + shifted_BL * (factor >> 16 * k & 0xFFFF) for k, limb in enumerate(limbs)]
    carry = 0
    for k, limb in enumerate(limbs):
        limbs[k], carry = (limb + carry) & 0xFFFF, (limb + carry) >> 16
    octets = [octet for limb in limbs for octet in (limb & 0xFF, limb >> 8)]
    remainder = sum(octet * pow(2, 8 * k, table) for k, octet in enumerate(octets))
    # A set top bit stands for -2^64.
    negative = (limbs[3] >> 15) * (table - pow(2, 64, table))
    return (remainder + negative) % table


class NGrams(nnx.Module):
    """The sum of the embeddings of a position's n-grams: one table per hash function and size, in that order."""

    def __init__(self, config, rngs: nnx.Rngs):
        e, d = config.model.encoder, config.model.d_byte
        self.table = e.ngram_rows
        # A tuple, because definitions are keys of caches.
        self.kinds = tuple((n, prime) for prime in PRIMES[: e.ngram_functions] for n in e.ngrams)
        self.embedding = layers.embedding(len(self.kinds) * self.table, d, d**-0.5, rngs)

    def __call__(self, rows: Rows) -> jax.Array:
        """float32 [B, L, d]."""
        ids = [table_rows(rows, n, prime, self.table) for n, prime in self.kinds]
        row_XBL = jnp.stack([id_BL + k * self.table for k, id_BL in enumerate(ids)])
        # One gather, whose gradient is an array as large as the tables: so there is one such array, not one per kind.
        return self.embedding(row_XBL).sum(axis=0)


class Encoder(nnx.Module):
    """Byte embedding, plus those of hashed n-grams, then causal sliding-window layers; may have none of either."""

    def __init__(self, config, rngs: nnx.Rngs):
        d, tier = config.model.d_byte, config.model.encoder
        self.dtype = layers.activation_dtype(config)
        self.embedding = layers.embedding(config_lib.vocabulary(config).rows, d, 1.0, rngs)
        self.ngrams = NGrams(config, rngs) if tier.ngrams else None
        self.layers = ByteTier("encoder", config, tier.layers, tier.heads, tier.window, self.dtype, rngs)

    def __call__(self, rows: Rows, probe_BLd=None) -> jax.Array:
        """Byte states [B, L, d]. `probe_BLd` is added to the embedding (the audit differentiates by it)."""
        x_BLd = self.embed(rows)
        if probe_BLd is not None:
            x_BLd = x_BLd + probe_BLd.astype(self.dtype)
        return self.layers(x_BLd, rows)

    def embed(self, rows: Rows) -> jax.Array:
        """What the layers read of each byte [B, L, d]."""
        x_BLd = self.embedding(rows.tokens_BL)
        if self.ngrams is not None:
            x_BLd = x_BLd + self.ngrams(rows)
        return constrain(x_BLd.astype(self.dtype), "encoder.embedding", "local_rows", "positions", None)
