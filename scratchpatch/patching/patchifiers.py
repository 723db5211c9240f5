"""Patchifiers: where patches end. Legend: B rows, L byte positions."""

import jax
import jax.numpy as jnp

from scratchpatch.patching import controller, documents, scores


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
      request_BL bool [B, L]; threshold_B float32 [B] at the end of each row.
    Sources: fixed, entropy_jump: BLT (arXiv 2412.09871); whitespace: SpaceByte
    (arXiv 2404.14408).
    """
    threshold_B = jnp.broadcast_to(threshold, tokens_BL.shape[:1])
    kind = patching.kind
    if kind == "byte":
        return valid_BL, threshold_B
    if kind == "fixed":
        p = patching.patch_bytes
        return valid_BL & (documents.offsets(start_BL) % p == p - 1), threshold_B
    if kind == "whitespace":
        request_BL = scores.word_end(tokens_BL, start_BL) & valid_BL
    else:
        score_BL = entropy_BL if kind == "entropy" else scores.entropy_jump(entropy_BL, start_BL)
        request_BL, threshold_B = controller.fire(
            score_BL, valid_BL, start_BL, threshold, patching.gain, 1 / patching.patch_bytes
        )
    return valid_BL & chop(request_BL, start_BL, patching.max_patch_bytes), threshold_B


def chop(request_BL: jax.Array, start_BL: jax.Array, limit: int) -> jax.Array:
    """Add a request wherever the asked-for patch reaches a multiple of `limit` bytes."""
    last_BL = documents.previous(documents.latest(request_BL, start_BL), start_BL, -1)
    n_L = jnp.arange(request_BL.shape[1], dtype=jnp.int32)
    length_BL = n_L - jnp.where(last_BL < 0, start_BL - 1, last_BL)
    return request_BL | (length_BL % limit == 0)
