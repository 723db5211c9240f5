"""Patchifiers: where patches end. Legend: B rows, L byte positions."""

import jax
import jax.numpy as jnp

from scratchpatch.patching import controller, scores
from scratchpatch.patching.rows import Rows
from scratchpatch.patching.scores import Signals


def request(patching, rows: Rows, signals: Signals, threshold):
    """Where the patchifier asks for a commit, before the budget.

    A decision at n depends on bytes <= n of its document. The open patch at the end of a document is not closed because
    a BOS follows: that would tell the model that the document ends.

    Args:
      threshold: float32 scalar, nats.
    Returns:
      request_BL bool [B, L]; threshold_BL float32 [B, L], see `controller.fire`.
    Sources: fixed, the entropy kinds: BLT (arXiv 2412.09871; entropy_and_jump
    is its code's `threshold_add`, whose third byte never ends a patch); whitespace: SpaceByte (arXiv 2404.14408).
    """
    threshold_BL = jnp.broadcast_to(threshold, rows.tokens_BL.shape)
    kind, valid_BL = patching.kind, rows.valid_BL
    if kind == "byte":
        return valid_BL, threshold_BL
    if kind == "fixed":
        p = patching.patch_bytes
        return valid_BL & (rows.offset_BL % p == p - 1), threshold_BL
    if kind == "whitespace":
        request_BL = scores.word_end(rows) & valid_BL
    elif kind == "random":
        request_BL = valid_BL & (scores.chance(rows) < 1 / patching.patch_bytes)
    else:
        request_BL, threshold_BL = _uncertain(patching, rows, signals.entropy_BL, threshold)
    if patching.commit_bos:
        request_BL |= _opening(kind, rows)
    return valid_BL & chop(request_BL, rows, patching.max_patch_bytes), threshold_BL


def _uncertain(patching, rows: Rows, entropy_BL, threshold):
    """Where the entropy, or its jump, exceeds the threshold; and that threshold by byte."""
    kind, eligible_BL = patching.kind, rows.valid_BL
    score_BL = scores.entropy_jump(entropy_BL, rows) if kind == "entropy_jump" else entropy_BL
    if kind == "entropy_and_jump":
        eligible_BL &= scores.entropy_jump(entropy_BL, rows) > patching.jump
    if patching.commit_bos and kind != "entropy":
        eligible_BL &= rows.offset_BL > (2 if kind == "entropy_and_jump" else 1)
    return controller.fire(score_BL, eligible_BL, rows, threshold, patching.gain, 1 / patching.patch_bytes)


def _opening(kind: str, rows: Rows) -> jax.Array:
    """BLT's first patches: the BOS, and under a rule of jumps the first byte, whose jump would be from the BOS."""
    bos_BL = rows.tokens_BL == rows.vocabulary.bos
    if kind in ("entropy_jump", "entropy_and_jump"):
        return bos_BL | rows.previous(bos_BL, False)
    return bos_BL


def chop(request_BL: jax.Array, rows: Rows, limit: int) -> jax.Array:
    """Add a request wherever the asked-for patch reaches a multiple of `limit` bytes."""
    last_BL = rows.previous(rows.latest(request_BL), -1)
    n_L = jnp.arange(request_BL.shape[1], dtype=jnp.int32)
    length_BL = n_L - jnp.where(last_BL < 0, rows.start_BL - 1, last_BL)
    return request_BL | (length_BL % limit == 0)
