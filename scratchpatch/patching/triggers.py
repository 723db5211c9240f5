"""Triggers: where a scratchpad refreshes the context inside a patch. Legend: B rows, L byte positions."""

import jax.numpy as jnp

from scratchpatch.patching import controller, scores
from scratchpatch.patching.rows import Rows
from scratchpatch.patching.scores import Signals


def request(trigger, rows: Rows, patch_start_BL, eligible_BL, signals: Signals, threshold):
    """Where the trigger asks for a scratchpad, before the budget.

    A decision at n depends on bytes <= n of its document.

    Args:
      patch_start_BL: int32 [B, L], starts of the open patches.
      eligible_BL: bool [B, L], False at PAD and where a commit stands: a commit refreshes the context anyway.
      threshold: float32 scalar, nats.
    Returns:
      request_BL bool [B, L]; threshold_BL float32 [B, L], see `controller.fire`.
    Sources: entropy (a threshold on the entropy), stride, whitespace:
    Scratchpad Patching (arXiv 2605.09630, app. E.2); the others are ours.
    """
    threshold_BL = jnp.broadcast_to(threshold, rows.tokens_BL.shape)
    kind = trigger.kind
    if kind == "none":
        return jnp.zeros_like(eligible_BL), threshold_BL
    if kind == "every":
        return eligible_BL, threshold_BL
    if kind == "stride":
        k = trigger.stride
        n_L = jnp.arange(rows.tokens_BL.shape[1], dtype=jnp.int32)
        return eligible_BL & ((n_L - patch_start_BL) % k == k - 1), threshold_BL
    if kind == "whitespace":
        return eligible_BL & scores.word_end(rows), threshold_BL
    if kind == "random":
        return eligible_BL & (scores.chance(rows) < trigger.rate), threshold_BL
    entropy_BL = signals.entropy_BL
    score_BL = entropy_BL if kind == "entropy" else scores.entropy_jump(entropy_BL, rows)
    return controller.fire(score_BL, eligible_BL, rows, threshold, trigger.gain, trigger.rate)
