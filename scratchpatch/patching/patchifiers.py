"""Patchifiers: where patches end. Legend: B rows, L byte positions."""

import jax
import jax.numpy as jnp

from scratchpatch.patching import controller, documents, scores
from scratchpatch.vocabulary import BOS


def request(patching, tokens_BL, start_BL, valid_BL, entropy_BL, threshold):
    """Where the patchifier asks for a commit, before the budget.

    A decision at n depends on bytes <= n of its document. The open patch at
    the end of a document is not closed because a BOS follows: that would tell
    the model that the document ends.

    Args:
      patching: the config's section.
      tokens_BL: int32 [B, L].
      start_BL: int32 [B, L], document starts.
      valid_BL: bool [B, L], False at PAD.
      entropy_BL: float32 [B, L], nats, or None if the kind does not read it.
      threshold: float32 scalar, nats.
    Returns:
      request_BL bool [B, L]; threshold_BL float32 [B, L], see `controller.fire`.
    Sources: fixed, the entropy kinds: BLT (arXiv 2412.09871; entropy_and_jump
    is its code's `threshold_add`, whose third byte never ends a patch);
    whitespace: SpaceByte (arXiv 2404.14408).
    """
    threshold_BL = jnp.broadcast_to(threshold, tokens_BL.shape)
    kind = patching.kind
    if kind == "byte":
        return valid_BL, threshold_BL
    if kind == "fixed":
        p = patching.patch_bytes
        return valid_BL & (documents.offsets(start_BL) % p == p - 1), threshold_BL
    if kind == "whitespace":
        request_BL = scores.word_end(tokens_BL, start_BL) & valid_BL
    elif kind == "random":
        request_BL = valid_BL & (scores.chance(tokens_BL, start_BL) < 1 / patching.patch_bytes)
    else:
        score_BL = scores.entropy_jump(entropy_BL, start_BL) if kind == "entropy_jump" else entropy_BL
        eligible_BL = valid_BL
        if kind == "entropy_and_jump":
            eligible_BL &= scores.entropy_jump(entropy_BL, start_BL) > patching.jump
        if patching.commit_bos and kind != "entropy":
            eligible_BL &= documents.offsets(start_BL) > (2 if kind == "entropy_and_jump" else 1)
        request_BL, threshold_BL = controller.fire(
            score_BL, eligible_BL, valid_BL, start_BL, threshold, patching.gain, 1 / patching.patch_bytes
        )
    if patching.commit_bos:
        request_BL |= _opening(kind, tokens_BL, start_BL)
    return valid_BL & chop(request_BL, start_BL, patching.max_patch_bytes), threshold_BL


def _opening(kind: str, tokens_BL, start_BL) -> jax.Array:
    """BLT's first patches: the BOS, and under a rule of jumps the first byte, whose jump would be from the BOS."""
    bos_BL = tokens_BL == BOS
    if kind in ("entropy_jump", "entropy_and_jump"):
        return bos_BL | documents.previous(bos_BL, start_BL, False)
    return bos_BL


def chop(request_BL: jax.Array, start_BL: jax.Array, limit: int) -> jax.Array:
    """Add a request wherever the asked-for patch reaches a multiple of `limit` bytes."""
    last_BL = documents.previous(documents.latest(request_BL, start_BL), start_BL, -1)
    n_L = jnp.arange(request_BL.shape[1], dtype=jnp.int32)
    length_BL = n_L - jnp.where(last_BL < 0, start_BL - 1, last_BL)
    return request_BL | (length_BL % limit == 0)
