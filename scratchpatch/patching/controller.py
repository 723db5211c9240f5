"""Fire where a score exceeds a threshold that may follow a target rate.

Legend: B rows, L byte positions, C chunks of `CHUNK` bytes.
"""

import math

import jax
import jax.numpy as jnp

from scratchpatch.patching.rows import Rows

# The threshold moves once per so many bytes of a document: the bytes of a
# chunk are decided in parallel (a byte-wise scan is far too slow on a TPU).
CHUNK = 64
# However long nothing fired, so many unwanted firings bring back the threshold of the document's start.
SLACK = 2 * CHUNK
# Nats below which no controller moves a threshold.
LOWEST = 1e-4


def fire(score_BL, eligible_BL, rows: Rows, threshold, gain: float, rate: float):
    """Where eligible bytes fire, and the threshold that each byte was held against.

    With gain 0: `score > threshold`. With gain > 0 the logarithm of the threshold is carried along each document, from
    `threshold` at its start, and after every CHUNK bytes of the document moves by `gain * (fired - rate * CHUNK)`, so a
    decision depends on earlier bytes of its own document alone. It rests at PAD.

    It does not wind up. Where nothing fires it falls, but never by more than `gain * SLACK` below the document's start
    (nor below LOWEST nats): as far as SLACK unwanted firings lift it. So once text is hard enough that every byte
    fires, the threshold of the start is back after the chunk in which the text turned and SLACK / (1 - rate) more
    bytes, rounded up to whole chunks: 192 bytes at a rate of 0.25, whatever the gain. Where too much fires it rises to
    the logarithm of the vocabulary's rows at most, which no entropy and no jump exceeds; from that `highest`, where
    nothing fires, it falls to a start of t nats within ln(highest / t) / (gain * rate * CHUNK) chunks, rounded up.

    Args:
      score_BL: float32 [B, L], nats.
      eligible_BL: bool [B, L], False at PAD.
      threshold: float32 scalar, nats; under a controller taken as at least LOWEST and at most `highest`.
      gain: change of the log threshold per unwanted firing.
      rate: wanted firings per byte.
    Returns:
      fired_BL bool [B, L]; threshold_BL float32 [B, L], nats.
    """
    if gain == 0:
        return (score_BL > threshold) & eligible_BL, jnp.broadcast_to(threshold, score_BL.shape)
    count, length = score_BL.shape
    highest = math.log(rows.vocabulary.rows)
    pad = -length % CHUNK

    def chunks(x_BL, fill):
        x_BL = jnp.pad(x_BL, ((0, 0), (0, pad)), constant_values=fill)
        return x_BL.reshape(count, -1, CHUNK).swapaxes(0, 1)

    def whole(x_CBc):
        return x_CBc.swapaxes(0, 1).reshape(count, -1)[:, :length]

    opening = jnp.log(jnp.clip(threshold, LOWEST, highest))
    low, high = jnp.maximum(opening - gain * SLACK, math.log(LOWEST)), math.log(highest)
    n_L = jnp.arange(length + pad, dtype=jnp.int32).reshape(-1, CHUNK)[:, None, :]

    def step(carry, x):
        log_B, fired_B = carry  # of the document that is open at the chunk's left edge
        score_Bc, eligible_Bc, moves_Bc, start_Bc, n_1c = x
        # A document from an earlier chunk crosses at most one boundary of its
        # own here; one that starts here crosses none.
        carried_Bc = start_Bc < n_1c[:, :1]
        before_Bc = carried_Bc & (jnp.cumsum(carried_Bc & moves_Bc, axis=1) == 0)
        old_Bc = (score_Bc > jnp.exp(log_B)[:, None]) & eligible_Bc & before_Bc
        fired_B = fired_B + old_Bc.sum(axis=1)
        crossed_B = (carried_Bc & ~before_Bc).any(axis=1)
        next_B = jnp.where(crossed_B, jnp.clip(log_B + gain * (fired_B - rate * CHUNK), low, high), log_B)
        log_Bc = jnp.where(carried_Bc, next_B[:, None], opening)
        new_Bc = (score_Bc > jnp.exp(log_Bc)) & eligible_Bc & ~before_Bc
        # What the next chunk inherits belongs to the last document only.
        last_Bc = new_Bc & (start_Bc == start_Bc[:, -1:])
        same_B = carried_Bc[:, -1] & ~crossed_B
        carry = log_Bc[:, -1], jnp.where(same_B, fired_B, last_Bc.sum(axis=1))
        return carry, (old_Bc | new_Bc, jnp.where(before_Bc, log_B[:, None], log_Bc))

    initial = jnp.full((count,), opening, jnp.float32), jnp.zeros((count,), jnp.int32)
    score_CBc, eligible_CBc = chunks(score_BL, -jnp.inf), chunks(eligible_BL, False)
    moves_CBc = chunks((rows.offset_BL % CHUNK == 0) & rows.valid_BL, False)
    # Padding belongs to the row's last document.
    start_CBc = jnp.pad(rows.start_BL, ((0, 0), (0, pad)), mode="edge").reshape(count, -1, CHUNK).swapaxes(0, 1)
    xs = score_CBc, eligible_CBc, moves_CBc, start_CBc, n_L
    _, (fired_CBc, log_CBc) = jax.lax.scan(step, initial, xs)
    return whole(fired_CBc), jnp.exp(whole(log_CBc))
