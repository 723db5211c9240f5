"""Causal sliding-window attention inside documents. Legend: B rows, L byte positions, H heads, K head width."""

import functools

import jax
import jax.numpy as jnp

from scratchpatch import precision
from scratchpatch.kernels import choice, ranges, sequence, window_xla


def attend(q_BLHK, k_BLHK, v_BLHK, start_BL, window: int, backend: str = "auto") -> jax.Array:
    """Position n reads positions m of its document with n - window < m <= n.

    Args:
      q_BLHK, k_BLHK, v_BLHK: queries, keys, values.
      start_BL: int32 [B, L], document starts.
      window: bytes that one byte sees, itself included.
      backend: config field kernels.window.
    Returns:
      [B, L, H, K] in the dtype of v; softmax in float32.
    Raises:
      UserError: a backend by name that cannot run here.
    """
    with precision.products(q_BLHK.dtype):
        return _attend(q_BLHK, k_BLHK, v_BLHK, start_BL, window, backend)


def _attend(q_BLHK, k_BLHK, v_BLHK, start_BL, window: int, backend: str) -> jax.Array:
    if sequence.devices() > 1:
        run = functools.partial(_attend, window=window, backend=backend)
        return sequence.over_positions(run, q_BLHK, k_BLHK, v_BLHK, start_BL, window)
    chosen = choice.window(backend, q_BLHK, window)
    if chosen.backend == "xla":
        return window_xla.attend(q_BLHK, k_BLHK, v_BLHK, start_BL, window)
    # A staircase on which every position is a commit, and sees the latest of those before it.
    n_BL = jnp.broadcast_to(jnp.arange(q_BLHK.shape[1], dtype=jnp.int32), start_BL.shape)
    first_BL = jnp.maximum(start_BL, n_BL - (window - 1))
    arrays = q_BLHK, k_BLHK, v_BLHK, k_BLHK, v_BLHK, first_BL, n_BL
    return ranges.attend(chosen.kernel(band=window), ranges.LOCAL, *arrays)
