"""Staircase attention: each slot reads a prefix of its document's commits, and itself.

Legend: B rows, N slots, P commits, G key-value heads, R query heads per
key-value head, H = G * R heads, K head width.
"""

import functools

import jax

from scratchpatch import precision
from scratchpatch.kernels import choice, ranges, sequence, staircase_xla


def attend(q_BNHK, k_BNGK, v_BNGK, first_BN, commits_BN, commits: int, backend: str = "auto") -> jax.Array:
    """Slot i reads commits j with first_i <= j < commits_i, and itself.

    The first `commits` slots are the commits: keys and values of scratchpads
    serve no slot but their own.

    Args:
      q_BNHK: queries.
      k_BNGK, v_BNGK: keys and values of every slot.
      first_BN, commits_BN: int32 [B, N], the range of commits that each sees.
      commits: P, a static size.
      backend: config field kernels.staircase.
    Returns:
      [B, N, H, K] in the dtype of v; softmax in float32.
    Raises:
      UserError: a backend by name that cannot run here.
    """
    arrays = (q_BNHK, k_BNGK[:, :commits], v_BNGK[:, :commits], k_BNGK, v_BNGK, first_BN, commits_BN)
    run = functools.partial(_attend, backend)
    with precision.products(q_BNHK.dtype):
        return run(*arrays) if sequence.devices() == 1 else sequence.over_slots(run, *arrays)


def _attend(backend: str, q_BNHK, k_BPGK, *rest) -> jax.Array:
    chosen = choice.staircase(backend, q_BNHK, k_BPGK)
    if chosen.backend == "xla":
        return staircase_xla.attend(q_BNHK, k_BPGK, *rest)
    return ranges.attend(chosen.kernel(), ranges.TRUNK, q_BNHK, k_BPGK, *rest)
