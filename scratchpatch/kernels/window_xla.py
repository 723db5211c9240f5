"""Causal sliding-window attention inside documents, in blocks: never [L x L].

Legend: B rows, L byte positions, H heads, K head width, C bytes of a block,
n = L / C blocks.
"""

import jax
import jax.numpy as jnp

# Blocks below this size waste more time on their number than they save.
SMALLEST_BLOCK = 16


def block_size(window: int, length: int) -> int:
    """Bytes of a block: with its predecessor it holds every window of its bytes."""
    return min(max(window, SMALLEST_BLOCK), length)


def attend(q_BLHK, k_BLHK, v_BLHK, start_BL, window: int) -> jax.Array:
    """Position n reads positions m of its document with n - window < m <= n.

    Args:
      q_BLHK, k_BLHK, v_BLHK: queries, keys, values.
      start_BL: int32 [B, L], document starts.
      window: bytes that one byte sees, itself included.
    Returns:
      [B, L, H, K] in the dtype of v; softmax in float32.
    """
    rows, length, heads, width = q_BLHK.shape
    size = block_size(window, length)
    pad = -length % size
    blocks = (length + pad) // size

    def split(x):
        x = jnp.pad(x, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2))
        return x.reshape(rows, blocks, size, *x.shape[2:])

    def with_previous(x):
        if blocks == 1:
            return x
        before = jnp.pad(x[:, :-1], ((0, 0), (1, 0)) + ((0, 0),) * (x.ndim - 2))
        return jnp.concatenate([before, x], axis=2)

    q_BnCHK, k_BnTHK, v_BnTHK = split(q_BLHK), with_previous(split(k_BLHK)), with_previous(split(v_BLHK))
    n_nC1 = jnp.arange(length + pad, dtype=jnp.int32).reshape(blocks, size, 1)
    m_n1T = jnp.arange(k_BnTHK.shape[2], dtype=jnp.int32) + (jnp.arange(blocks) * size)[:, None, None]
    m_n1T -= k_BnTHK.shape[2] - size
    near_nCT = (m_n1T <= n_nC1) & (m_n1T > n_nC1 - window)
    see_BnCT = near_nCT & (m_n1T >= split(start_BL)[..., None])

    logits = jnp.einsum("bnchk,bnthk->bnhct", q_BnCHK, k_BnTHK, preferred_element_type=jnp.float32)
    logits = jnp.where(see_BnCT[:, :, None], logits * width**-0.5, -jnp.inf)
    # Every position sees itself, so no row of logits is empty; padding sees padding.
    weights = jax.nn.softmax(logits, axis=-1).astype(v_BLHK.dtype)
    out = jnp.einsum("bnhct,bnthk->bnchk", weights, v_BnTHK)
    return out.reshape(rows, length + pad, heads, width)[:, :length]
