"""Contexts that are mixed with those before them by the router's probability, as H-Net does (arXiv 2507.07955, its
smoothing module): where the router was unsure of a boundary, the bytes after it read a mean of both patches.

Legend: B rows, N slots of a row in byte order, d byte width.
"""

import jax
import jax.numpy as jnp

# A weight lies so far at least from 0 and from 1, as in the paper's code.
LEAST = 1e-4


def smooth(context_BNd, p_BN, commit_BN, first_BN, null_Bd, before_Bd=None) -> tuple[jax.Array, jax.Array]:
    """What bytes read of each slot, float32 [B, N, d], and what is carried on after the last one [B, d].

    Over the commits of a document z_j = P_j c_j + (1 - P_j) z_{j-1}, P being p held away from 0 and 1. Ours: before the
    first commit z is the null context, which bytes read there anyway. At a document's first byte, where p = 1, next to
    nothing of it is left (the paper has zeros in its place), and where a budget refuses that first commit, the null
    context stands for the slot of a BOS, whose state is the same in all documents. Ours: a scratchpad is read as the
    trunk gave it, since no router has decided it and it is there to refresh; and it leaves nothing behind, so the next
    commit is mixed with the commit before it.

    Args:
      context_BNd: c, what bytes would read of each slot.
      p_BN: float32, the router's probability at the slot's byte; of no meaning at scratchpads.
      commit_BN: bool, False at scratchpads.
      first_BN: bool, slots that see no commit before them in their document.
      null_Bd: the null context.
      before_Bd: float32, what was carried on before the first slot; None where that one is the row's first.
    """
    c_BNd, null_B1d = context_BNd.astype(jnp.float32), null_Bd.astype(jnp.float32)[:, None]
    p_BN1, commit_BN1, first_BN1 = (x[..., None] for x in (p_BN, commit_BN, first_BN))
    weight_BN1 = jnp.clip(p_BN1, LEAST, 1 - LEAST)
    # z_j = share_j z_{j-1} + added_j. Such maps compose, so it is an associative scan.
    share_BN1 = jnp.where(commit_BN1, jnp.where(first_BN1, 0.0, 1 - weight_BN1), 1.0)
    added_BNd = weight_BN1 * c_BNd + jnp.where(first_BN1, (1 - weight_BN1) * null_B1d, 0.0)
    added_BNd = jnp.where(commit_BN1, added_BNd, 0.0)
    if before_Bd is not None:
        added_BNd = added_BNd.at[:, 0].add(share_BN1[:, 0] * before_Bd)

    def compose(first, then):
        (share1, added1), (share2, added2) = first, then
        return share1 * share2, share2 * added1 + added2

    _, z_BNd = jax.lax.associative_scan(compose, (share_BN1, added_BNd), axis=1)
    return jnp.where(commit_BN1, z_BNd, c_BNd), z_BNd[:, -1]
