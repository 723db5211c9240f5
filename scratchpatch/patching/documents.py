"""Documents packed in a row.

Legend: B rows, L byte positions. A document is named by `start_BL`, the
position of its BOS, or 0 where the row begins inside a document.
"""

import jax
import jax.numpy as jnp

from scratchpatch.vocabulary import BOS, PAD


def starts(tokens_BL: jax.Array) -> jax.Array:
    """int32 [B, L]: where the document of each position starts in its row."""
    n_L = jnp.arange(tokens_BL.shape[1], dtype=jnp.int32)
    return jax.lax.cummax(jnp.where(tokens_BL == BOS, n_L, 0), axis=1)


def ends(tokens_BL: jax.Array) -> jax.Array:
    """bool [B, L]: the last position of each document in its row, PAD left out."""
    next_BL = jnp.pad(tokens_BL[:, 1:], ((0, 0), (0, 1)), constant_values=BOS)
    return (tokens_BL != PAD) & ((next_BL == BOS) | (next_BL == PAD))


def offsets(start_BL: jax.Array) -> jax.Array:
    """int32 [B, L]: bytes since the document's start (0 at its BOS)."""
    return jnp.arange(start_BL.shape[1], dtype=jnp.int32) - start_BL


def previous(x_BL: jax.Array, start_BL: jax.Array, fill) -> jax.Array:
    """x at n-1, and `fill` at the first position of a document."""
    shifted_BL = jnp.pad(x_BL[:, :-1], ((0, 0), (1, 0)))
    return jnp.where(offsets(start_BL) == 0, jnp.asarray(fill, x_BL.dtype), shifted_BL)


def latest(mask_BL: jax.Array, start_BL: jax.Array) -> jax.Array:
    """int32 [B, L]: the latest position <= n of the same document where mask holds; -1 if none."""
    n_L = jnp.arange(mask_BL.shape[1], dtype=jnp.int32)
    last_BL = jax.lax.cummax(jnp.where(mask_BL, n_L, -1), axis=1)
    return jnp.where(last_BL >= start_BL, last_BL, -1)
