"""Attention: the one public file of kernels, `staircase` for the trunk and `window` for the byte tiers (see README.md).

`cached_staircase` and `cached_window` are the same two of new slots and positions alone, with what `Kept` has of those
before them.

Legend: B rows, L byte positions, N slots, P commits, G key-value heads, R query heads per key-value head, H = G * R
heads, K head width.
"""

import jax
import jax.numpy as jnp

from scratchpatch import precision, sharding
from scratchpatch.kernels import choice, ranges, sequence, xla
from scratchpatch.kernels.cached import Kept, ring_places, staircase as cached_staircase, window as cached_window
from scratchpatch.kernels.choice import platform, traced_platform
from scratchpatch.kernels.xla import block_size

__all__ = [
    "Kept",
    "block_size",
    "cached_staircase",
    "cached_window",
    "platform",
    "ring_places",
    "staircase",
    "traced_platform",
    "window",
]


def staircase(q_BNHK, k_BNGK, v_BNGK, begin_BN, end_BN, commits: int, backend: str = "auto") -> jax.Array:
    """Slot i reads commits j with begin_i <= j < end_i, and itself.

    The first `commits` slots are the commits, and see commits before them alone: end_i <= i. Keys and values of
    scratchpads serve no slot but their own.

    Args:
      k_BNGK, v_BNGK: keys and values of every slot.
      begin_BN, end_BN: int32 [B, N], the range of commits that each slot sees.
      commits: P, a static size.
      backend: config field kernels.staircase.
    Returns:
      [B, N, H, K] in the dtype of v; softmax in float32.
    Raises:
      UserError: a backend by name that cannot run here.
    """
    # A device that has a part of the row's slots knows no order of theirs and the commits.
    ordered = sequence.devices() == 1

    def attend(q_BNHK, k_BPGK, v_BPGK, own_k_BNGK, own_v_BNGK, begin_BN, end_BN):
        kernel = choice.staircase(backend, q_BNHK, k_BPGK).kernel(ordered=ordered)
        arrays = q_BNHK, k_BPGK, v_BPGK, own_k_BNGK, own_v_BNGK, begin_BN, end_BN
        return ranges.attend(kernel, sharding.TRUNK, *arrays) if kernel else xla.staircase(*arrays)

    arrays = q_BNHK, k_BNGK[:, :commits], v_BNGK[:, :commits], k_BNGK, v_BNGK, begin_BN, end_BN
    with precision.products(q_BNHK.dtype):
        return sequence.over_slots(attend, *arrays)


def window(q_BLHK, k_BLHK, v_BLHK, start_BL, size: int, backend: str = "auto") -> jax.Array:
    """Position n reads positions m of its document with n - size < m <= n.

    Args:
      start_BL: int32 [B, L], document starts.
      size: bytes that one byte sees, itself included.
      backend: config field kernels.window.
    Returns:
      [B, L, H, K] in the dtype of v; softmax in float32.
    Raises:
      UserError: a backend by name that cannot run here.
    """

    def attend(q_BLHK, k_BLHK, v_BLHK, start_BL):
        kernel = choice.window(backend, q_BLHK, size).kernel(band=size)
        if kernel is None:
            return xla.window(q_BLHK, k_BLHK, v_BLHK, start_BL, size)
        # A staircase on which every position is a commit, and sees the latest of those before it.
        n_BL = jnp.broadcast_to(jnp.arange(q_BLHK.shape[1], dtype=jnp.int32), start_BL.shape)
        begin_BL = jnp.maximum(start_BL, n_BL - (size - 1))
        arrays = q_BLHK, k_BLHK, v_BLHK, k_BLHK, v_BLHK, begin_BL, n_BL
        return ranges.attend(kernel, sharding.BYTE_TIER, *arrays)

    with precision.products(q_BLHK.dtype):
        return sequence.over_positions(attend, q_BLHK, k_BLHK, v_BLHK, start_BL, size)
