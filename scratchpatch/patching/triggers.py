"""Triggers: where a scratchpad refreshes the context inside a patch. `request` decides whole rows, `step` one byte of
each.

Legend: B rows, L byte positions, K the last positions of rows that are read byte by byte.
"""

import jax.numpy as jnp

from scratchpatch.patching import characters, controller, scores
from scratchpatch.patching.rows import Rows
from scratchpatch.patching.scores import Signals


def request(trigger, rows: Rows, patch_start_BL, eligible_BL, signals: Signals, threshold):
    """Where the trigger asks for a scratchpad, before the budget.

    A decision at n depends on bytes <= n of its document. Under `whole_characters` a score decides where a character is
    complete, and whatever else asks inside one waits for its last byte.

    Args:
      patch_start_BL: int32 [B, L], starts of the open patches.
      eligible_BL: bool [B, L], False at PAD and where a commit stands: a commit refreshes the context anyway.
      threshold: float32 scalar, nats.
    Returns:
      request_BL bool [B, L]; threshold_BL float32 [B, L], see `controller.fire`.
    """
    n_L = jnp.arange(rows.tokens_BL.shape[1], dtype=jnp.int32)
    asked_BL, score_BL = _rule(trigger, rows, n_L - patch_start_BL + 1, signals)
    inside_BL = characters.inside(rows) if trigger.whole_characters else jnp.zeros_like(eligible_BL)
    if score_BL is not None:
        return controller.fire(score_BL, eligible_BL & ~inside_BL, rows, threshold, trigger.gain, trigger.rate)
    if trigger.whole_characters:
        asked_BL = characters.hold(asked_BL & eligible_BL, inside_BL, rows)
    return eligible_BL & asked_BL, jnp.broadcast_to(threshold, rows.tokens_BL.shape)


def step(trigger, tail: Rows, patch_bytes_B, eligible_B, signals: Signals, standing: controller.Standing, held_B):
    """What `request` decides, for one byte of each row, none of them PAD.

    Args:
      tail: the last bytes of each row, [B, K], see `rows.tail`.
      patch_bytes_B: int32 [B], bytes of the open patch, this one included.
      eligible_B: bool [B], as in `request`.
      signals: of the last bytes, [B, K].
      standing, held_B: what this function returned for the byte before; at the row's start `controller.initial` and
        False.
    Returns:
      request_B bool [B]; the new standing; held_B bool [B], whether a request waits for the end of a character.
    """
    asked_BK, score_BK = _rule(trigger, tail, patch_bytes_B[:, None], signals)
    offset_B = tail.offset_BL[:, -1]
    inside_B = characters.inside(tail)[:, -1] if trigger.whole_characters else jnp.zeros_like(held_B)
    if score_BK is not None:
        fired_B, standing = controller.step(
            standing, score_BK[:, -1], eligible_B & ~inside_B, offset_B, tail.vocabulary
        )
        return fired_B, standing, held_B
    asked_B = asked_BK[:, -1] & eligible_B
    if trigger.whole_characters:
        asked_B, held_B = characters.hold_step(asked_B, inside_B, held_B, offset_B)
    return eligible_B & asked_B, standing, held_B


def _rule(trigger, rows: Rows, patch_bytes_BL, signals: Signals):
    """What the trigger says of each byte, from the byte, at most `scores.LOOK_BACK` before it and the open patch's
    length: a mask, bool [B, L], or a score to hold against the threshold, float32 [B, L] (entropies in nats, benefits
    as `scores.benefit` has them); the other is None. The oracle's benefit was measured on bytes that follow.

    Sources: entropy (a threshold on the entropy), stride, whitespace: Scratchpad Patching (arXiv 2605.09630, app. E.2);
    marks: the answer-start trigger of arXiv 2610.11790; the others are ours.
    """
    kind = trigger.kind
    if kind == "entropy":
        return None, signals.entropy_BL
    if kind == "entropy_jump":
        return None, scores.entropy_jump(signals.entropy_BL, rows)
    if kind in ("score", "learned", "oracle"):
        return None, scores.benefit(signals.benefit_BLM, patch_bytes_BL)
    if kind == "stride":
        return patch_bytes_BL % trigger.stride == 0, None
    if kind == "whitespace":
        return scores.word_end(rows), None
    if kind == "random":
        return scores.chance(rows) < trigger.rate, None
    if kind == "marks":
        return scores.after(rows, trigger.marks), None
    return jnp.full(rows.tokens_BL.shape, kind == "every"), None
