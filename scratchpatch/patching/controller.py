"""Fire where a score exceeds a threshold that may follow a target rate.

`fire` decides whole rows, `step` one byte of each. Legend: B rows, L byte positions, C chunks of `CHUNK` bytes.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from scratchpatch.patching.rows import Rows
from scratchpatch.vocabulary import Vocabulary

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
    pad = -length % CHUNK

    def chunks(x_BL, fill):
        x_BL = jnp.pad(x_BL, ((0, 0), (0, pad)), constant_values=fill)
        return x_BL.reshape(count, -1, CHUNK).swapaxes(0, 1)

    def whole(x_CBc):
        return x_CBc.swapaxes(0, 1).reshape(count, -1)[:, :length]

    opening = _opening(threshold, rows.vocabulary)
    n_L = jnp.arange(length + pad, dtype=jnp.int32).reshape(-1, CHUNK)[:, None, :]

    def chunk(carry, x):
        log_B, fired_B = carry  # of the document that is open at the chunk's left edge
        score_Bc, eligible_Bc, moves_Bc, start_Bc, n_1c = x
        # A document from an earlier chunk crosses at most one boundary of its
        # own here; one that starts here crosses none.
        carried_Bc = start_Bc < n_1c[:, :1]
        before_Bc = carried_Bc & (jnp.cumsum(carried_Bc & moves_Bc, axis=1) == 0)
        old_Bc = (score_Bc > jnp.exp(log_B)[:, None]) & eligible_Bc & before_Bc
        fired_B = fired_B + old_Bc.sum(axis=1)
        crossed_B = (carried_Bc & ~before_Bc).any(axis=1)
        next_B = jnp.where(crossed_B, _moved(log_B, fired_B, opening, gain, rate, rows.vocabulary), log_B)
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
    _, (fired_CBc, log_CBc) = jax.lax.scan(chunk, initial, xs)
    return whole(fired_CBc), jnp.exp(whole(log_CBc))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Standing:
    """Where the controller of each row stands, for rows that are decided byte by byte.

    Attributes:
      opening_B: float32 [B], nats, the threshold at which documents of the row start.
      threshold_B: float32 [B], nats, that the latest byte was held against; the opening before the row's first byte.
      log_B: float32 [B], the logarithm of that threshold; read where gain > 0.
      fired_B: int32 [B], firings since the threshold last moved; read where gain > 0.
      gain_B, rate_B: float32 [B], as in `fire`; rows may differ.
    """

    opening_B: jax.Array
    threshold_B: jax.Array
    log_B: jax.Array
    fired_B: jax.Array
    gain_B: jax.Array
    rate_B: jax.Array


def initial(threshold, gain, rate, batch: int) -> Standing:
    """The start of rows: threshold (float32, nats, at which their documents start), gain and rate as in `fire`, each a
    scalar or [B].
    """
    numbers = (jnp.asarray(x, jnp.float32) for x in (threshold, gain, rate))
    opening_B, gain_B, rate_B = (jnp.broadcast_to(number, (batch,)) for number in numbers)
    zero_B = jnp.zeros((batch,), jnp.float32)
    return Standing(opening_B, opening_B, zero_B, zero_B.astype(jnp.int32), gain_B, rate_B)


def step(standing: Standing, score_B, eligible_B, offset_B, vocabulary: Vocabulary):
    """What `fire` decides, for one byte of each row, none of them PAD.

    Args:
      standing: what this function returned for the byte before.
      score_B: float32 [B], nats.
      eligible_B: bool [B].
      offset_B: int32 [B], of this byte in its document.
    Returns:
      fired_B bool [B]; the new standing, whose threshold_B this byte was held against.
    """
    gain, rate = standing.gain_B, standing.rate_B
    opening_B = _opening(standing.opening_B, vocabulary)
    moves_B = offset_B % CHUNK == 0
    moved_B = _moved(standing.log_B, standing.fired_B, opening_B, gain, rate, vocabulary)
    log_B = jnp.where(offset_B == 0, opening_B, jnp.where(moves_B, moved_B, standing.log_B))
    # Without a controller the threshold is the opening itself, which a logarithm may round or not have.
    threshold_B = jnp.where(gain == 0, standing.opening_B, jnp.exp(log_B))
    fired_B = (score_B > threshold_B) & eligible_B
    count_B = jnp.where(moves_B, 0, standing.fired_B) + fired_B
    return fired_B, dataclasses.replace(standing, threshold_B=threshold_B, log_B=log_B, fired_B=count_B)


def _opening(threshold, vocabulary: Vocabulary):
    """The logarithm of the threshold at which documents start under a controller."""
    return jnp.log(jnp.clip(threshold, LOWEST, math.log(vocabulary.rows)))


def _moved(log, fired, opening, gain, rate, vocabulary: Vocabulary):
    """The logarithm of the threshold after CHUNK bytes of which so many fired."""
    low, high = jnp.maximum(opening - gain * SLACK, math.log(LOWEST)), math.log(math.log(vocabulary.rows))
    return jnp.clip(log + gain * (fired - rate * CHUNK), low, high)
