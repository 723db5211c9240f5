"""Staircase attention: each slot reads a prefix of commits, and itself.

Legend: B rows, N slots, P commits, C slots of a chunk, G key-value heads,
R query heads per key-value head, K head width.
"""

import jax
import jax.numpy as jnp

# Queries of one chunk: bounds the live part of the [N, P] logits, so that
# memory per byte does not grow with the window.
CHUNK = 512


def attend(q_BNHK, k_BNGK, v_BNGK, first_BN, commits_BN, commits: int) -> jax.Array:
    """Slot i reads commits j with first_i <= j < commits_i, and itself (DESIGN 2).

    The first `commits` slots are the commits: keys and values of scratchpads
    serve no slot but their own.

    Args:
      q_BNHK: queries, H = G * R heads.
      k_BNGK, v_BNGK: keys and values of every slot.
      first_BN, commits_BN: int32 [B, N], the range of commits that each sees.
      commits: P, a static size.
    Returns:
      [B, N, H, K] in the dtype of v; softmax in float32.
    """
    rows, slots, heads, width = q_BNHK.shape
    groups = k_BNGK.shape[2]
    q_BNGRK = q_BNHK.reshape(rows, slots, groups, heads // groups, width)
    k_BPGK, v_BPGK = k_BNGK[:, :commits], v_BNGK[:, :commits]
    j_P = jnp.arange(commits, dtype=jnp.int32)

    def chunk(q_BCGRK, k_BCGK, v_BCGK, first_BC, commits_BC):
        scale = width**-0.5
        logits = jnp.einsum("bcgrk,bpgk->bgrcp", q_BCGRK, k_BPGK, preferred_element_type=jnp.float32) * scale
        own = jnp.einsum("bcgrk,bcgk->bgrc", q_BCGRK, k_BCGK, preferred_element_type=jnp.float32) * scale
        see_BCP = (j_P >= first_BC[..., None]) & (j_P < commits_BC[..., None])
        logits = jnp.where(see_BCP[:, None, None], logits, -jnp.inf)
        top = jax.lax.stop_gradient(jnp.maximum(logits.max(axis=-1), own))
        weights, own = jnp.exp(logits - top[..., None]), jnp.exp(own - top)
        total = weights.sum(axis=-1) + own
        out = jnp.einsum("bgrcp,bpgk->bcgrk", weights.astype(v_BPGK.dtype), v_BPGK)
        out += jnp.einsum("bgrc,bcgk->bcgrk", own.astype(v_BPGK.dtype), v_BCGK)
        # Divided last: [C, K] is narrower than [C, P].
        return out / jnp.einsum("bgrc->bcgr", total)[..., None].astype(out.dtype)

    arguments = (q_BNGRK, k_BNGK, v_BNGK, first_BN, commits_BN)
    if slots <= CHUNK:
        return chunk(*arguments).reshape(q_BNHK.shape)
    pad = -slots % CHUNK

    def split(x):
        x = jnp.pad(x, ((0, 0), (0, pad)) + ((0, 0),) * (x.ndim - 2))
        return x.reshape(rows, -1, CHUNK, *x.shape[2:]).swapaxes(0, 1)

    out = jax.lax.map(jax.checkpoint(lambda xs: chunk(*xs)), jax.tree.map(split, arguments))
    return out.swapaxes(0, 1).reshape(rows, slots + pad, heads, width)[:, :slots]
