"""Patchifiers: where patches end. `request` decides whole rows, `step` one byte of each.

Legend: B rows, L byte positions, K the last positions of rows that are read byte by byte.
"""

import jax
import jax.numpy as jnp

from scratchpatch.patching import characters, controller, scores
from scratchpatch.patching.rows import Rows
from scratchpatch.patching.scores import Signals

# Kinds whose patches have one size, or are as long as a router makes them: nothing is added to what they ask for.
_AS_ASKED = ("byte", "fixed", "learned")


def request(patching, rows: Rows, signals: Signals, threshold):
    """Where the patchifier asks for a commit, before the budget.

    A decision at n depends on bytes <= n of its document. Under `whole_characters` a score decides where a character is
    complete, and whatever else asks inside one waits for its last byte. The open patch at the end of a document is not
    closed because a BOS follows: that would tell the model that the document ends.

    Args:
      threshold: float32 scalar, nats.
    Returns:
      request_BL bool [B, L]; threshold_BL float32 [B, L], see `controller.fire`.
    """
    asked_BL, score_BL = _rule(patching, rows, signals)
    threshold_BL = jnp.broadcast_to(threshold, rows.tokens_BL.shape)
    inside_BL = characters.inside(rows) if patching.whole_characters else jnp.zeros_like(rows.valid_BL)
    if score_BL is not None:
        gain, rate, eligible_BL = patching.gain, 1 / patching.patch_bytes, rows.valid_BL & ~inside_BL
        fired_BL, threshold_BL = controller.fire(score_BL, eligible_BL, rows, threshold, gain, rate)
        asked_BL |= fired_BL
    if patching.kind not in _AS_ASKED:
        asked_BL = chop(asked_BL, rows, patching.max_patch_bytes)
    if patching.whole_characters:
        asked_BL = characters.hold(asked_BL, inside_BL, rows)
    return rows.valid_BL & asked_BL, threshold_BL


def step(patching, tail: Rows, signals: Signals, standing: controller.Standing, since_B, held_B):
    """What `request` decides, for one byte of each row, none of them PAD.

    Args:
      tail: the last bytes of each row, [B, K], see `rows.tail`.
      signals: of these bytes, [B, K].
      standing, since_B, held_B: what this function returned for the byte before; at the row's start
        `controller.initial`, 0 and False.
    Returns:
      request_B bool [B]; the new standing; since_B int32 [B], bytes since the patchifier last asked, chopping and
      waiting left out; held_B bool [B], whether a request waits for the end of a character.
    """
    asked_BK, score_BK = _rule(patching, tail, signals)
    asked_B, offset_B = asked_BK[:, -1], tail.offset_BL[:, -1]
    inside_B = characters.inside(tail)[:, -1] if patching.whole_characters else jnp.zeros_like(held_B)
    if score_BK is not None:
        eligible_B = tail.valid_BL[:, -1] & ~inside_B
        fired_B, standing = controller.step(standing, score_BK[:, -1], eligible_B, offset_B, tail.vocabulary)
        asked_B |= fired_B
    if patching.kind not in _AS_ASKED:
        asked_B, since_B = chop_step(asked_B, since_B, offset_B, patching.max_patch_bytes)
    if patching.whole_characters:
        asked_B, held_B = characters.hold_step(asked_B, inside_B, held_B, offset_B)
    return tail.valid_BL[:, -1] & asked_B, standing, since_B, held_B


def _rule(patching, rows: Rows, signals: Signals):
    """What the patchifier says of each byte, from the byte and at most `scores.LOOK_BACK` before it.

    Returns:
      asked_BL: bool [B, L], where it asks whatever the threshold.
      score_BL: float32 [B, L], nats: it also asks where the score exceeds the threshold; None where it has none.
    Sources: fixed, the entropy kinds: BLT (arXiv 2412.09871; entropy_and_jump
    is its code's `threshold_add`, whose third byte never ends a patch); whitespace: SpaceByte (arXiv 2404.14408), whose
    BOS is space-like. Where the BOS is no patch of its own (not `commit_bos`), it is not: a document's first space-like
    byte ends a patch even where no byte stands before it.
    learned: H-Net (arXiv 2507.07955).
    """
    kind, score_BL = patching.kind, None
    if kind == "byte":
        asked_BL = rows.valid_BL
    elif kind == "fixed":
        p = patching.patch_bytes
        asked_BL = rows.offset_BL % p == p - 1
    elif kind == "whitespace":
        asked_BL = scores.word_end(rows)
        if patching.commit_bos:
            asked_BL &= ~rows.previous(rows.tokens_BL == rows.vocabulary.bos, False)
    elif kind == "random":
        asked_BL = scores.chance(rows) < 1 / patching.patch_bytes
    elif kind == "learned":
        asked_BL = signals.boundary_BL > scores.LIKELY
    else:
        asked_BL, score_BL = jnp.zeros_like(rows.valid_BL), _uncertainty(patching, rows, signals.entropy_BL)
    if patching.commit_bos:
        asked_BL |= _opening(kind, rows)
    return asked_BL & rows.valid_BL, score_BL


def _uncertainty(patching, rows: Rows, entropy_BL) -> jax.Array:
    """The entropy, or its jump, in nats; -inf where it must not decide."""
    kind = patching.kind
    score_BL = scores.entropy_jump(entropy_BL, rows) if kind == "entropy_jump" else entropy_BL
    if kind == "entropy_and_jump":
        score_BL = jnp.where(scores.entropy_jump(entropy_BL, rows) > patching.jump, score_BL, -jnp.inf)
    if patching.commit_bos and kind != "entropy":
        score_BL = jnp.where(rows.offset_BL > (2 if kind == "entropy_and_jump" else 1), score_BL, -jnp.inf)
    return score_BL


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


def chop_step(request_B: jax.Array, since_B: jax.Array, offset_B: jax.Array, limit: int):
    """What `chop` adds for one byte of each row; and the bytes since the last request, chopping left out."""
    length_B = jnp.where(offset_B == 0, 0, since_B) + 1
    return request_B | (length_B % limit == 0), jnp.where(request_B, 0, length_B)
