"""Choosing the next byte of each row from its logits.

Rows have options of their own, as arrays, so that one compiled program serves all of them. What a row is given depends
on its own logits, options and state alone, and on a CPU bit for bit: not on the other rows, on their number, or on its
place among them. The draw is the largest of the row's scores with Gumbel noise added, and the noise is a function of
the row's seed and of how many bytes the row has written. Where two distributions of the same seed at the same byte are
close, such as those of a draft and of the model itself, their draws are therefore mostly equal.

Candidates are the ids of text, bytes or tokens, and BOS, which ends the document. `vocabulary` is that of the logits.

Legend: B rows, V rows of the vocabulary, K alternatives.
"""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from scratchpatch.errors import UserError
from scratchpatch.inference import utf8
from scratchpatch.inference.options import Options
from scratchpatch.vocabulary import BYTES, Vocabulary

_SMALLEST, _LARGEST = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)
# The bits of float32's infinity: as integers, the bits of floats that are not negative are in the order of the floats.
_INFINITY = 0x7F800000
# More candidates than any vocabulary has.
_ALL = 2**31 - 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Settings:
    """What `Options` say about choosing, one entry for each row; made by `settings`.

    Attributes:
      temperature_B: float32.
      top_k_B: int32; _ALL where it is off.
      top_p_B: float32.
      log_min_p_B: float32, natural logarithm of min_p; -inf where it is off.
      repetition_penalty_B: float32.
      seed_B2: uint32, the upper and the lower half of the seed.
      valid_utf8_B: bool.
      max_bytes_B: int32.
    """

    temperature_B: jax.Array
    top_k_B: jax.Array
    top_p_B: jax.Array
    log_min_p_B: jax.Array
    repetition_penalty_B: jax.Array
    seed_B2: jax.Array
    valid_utf8_B: jax.Array
    max_bytes_B: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """What choosing reads of a row beside its logits.

    Attributes:
      seen_BV: bool, the tokens in the row's prompt and output.
      utf8_B: int32, the state of `inference.utf8` after them; of tokens always 0.
      written_B: int32, how many bytes the row has written.
    """

    seen_BV: jax.Array
    utf8_B: jax.Array
    written_B: jax.Array


def settings(options: Sequence[Options]) -> Settings:
    """The settings of rows with these options, in order, which have passed `Options.check`; numpy arrays."""

    def floats(values) -> np.ndarray:
        return np.array([min(max(value, _SMALLEST), _LARGEST) for value in values], np.float32)

    # What would be 0 in float32 is 0 already here.
    temperatures = [o.temperature if o.temperature >= _SMALLEST else 0.0 for o in options]
    # Filters of greedy rows are switched off, because they change nothing but the time.
    filtered = [o if temperature else Options() for o, temperature in zip(options, temperatures, strict=True)]
    return Settings(
        temperature_B=np.array([min(temperature, _LARGEST) for temperature in temperatures], np.float32),
        top_k_B=np.array([o.top_k or _ALL for o in filtered], np.int32),
        top_p_B=floats(o.top_p for o in filtered),
        log_min_p_B=np.array([math.log(o.min_p) if o.min_p else -math.inf for o in filtered], np.float32),
        repetition_penalty_B=floats(o.repetition_penalty for o in options),
        seed_B2=np.array([divmod(o.seed, 2**32) for o in options], np.uint32).reshape(-1, 2),
        valid_utf8_B=np.array([o.valid_utf8 for o in options], bool),
        max_bytes_B=np.array([o.max_bytes for o in options], np.int32),
    )


def initial(prompts: Sequence[Sequence[int]], vocabulary: Vocabulary = BYTES) -> State:
    """The state of rows that have read these prompts (ids of text) and written nothing; numpy arrays."""
    seen_BV = np.zeros((len(prompts), vocabulary.rows), bool)
    for seen_V, prompt in zip(seen_BV, prompts, strict=True):
        seen_V[list(prompt)] = True
    states = [utf8.state_after(bytes(prompt)) if vocabulary.is_bytes else utf8.ACCEPT for prompt in prompts]
    utf8_B = np.array(states, np.int32)
    return State(seen_BV, utf8_B, np.zeros(len(prompts), np.int32))


def advance(
    state: State, token_B: jax.Array, active_B: jax.Array, token_bytes_V: jax.Array | None = None
) -> State:
    """The state after each active row (bool [B]) wrote its token (int32 [B]); other rows' states stay. token_bytes_V:
    of a model of tokens, bytes of each, 0 of BOS.
    """
    is_token_BV = jnp.arange(state.seen_BV.shape[1]) == token_B[:, None]
    if token_bytes_V is None:
        size_B, utf8_B = token_B < BYTES.bos, jnp.asarray(utf8.NEXT_SV)[state.utf8_B, token_B]
    else:
        size_B, utf8_B = token_bytes_V[token_B].astype(jnp.int32), state.utf8_B
    return State(
        seen_BV=state.seen_BV | is_token_BV & active_B[:, None],
        utf8_B=jnp.where(active_B, utf8_B, state.utf8_B),
        written_B=state.written_B + active_B * size_B,
    )


def choose(
    logits_BV: jax.Array, settings: Settings, state: State, vocabulary: Vocabulary = BYTES
) -> tuple[jax.Array, jax.Array]:
    """The next token of each row, drawn from `distribution`.

    Args:
      logits_BV: float32 (other floats are cast), raw.
    Returns:
      (token_B, log_probability_B): int32, a byte (or token) or BOS; float32, natural logarithm of the token's
      probability under the model's own distribution, the softmax of the raw logits, whatever the options. A row whose
      logits hold a NaN, a positive infinity, or nothing but negative infinities, has no distribution: it gets BOS, so
      that it ends, and NaN as log-probability, for which whoever runs the loop asks `check_sound`.
    """
    logits_BV = logits_BV.astype(jnp.float32)
    scores_BV = _scores(logits_BV, settings, state, vocabulary)
    noisy_BV = jax.lax.cond(
        (settings.temperature_B > 0).any(),
        lambda: scores_BV + jnp.where(settings.temperature_B[:, None] > 0, _noise(settings, state, vocabulary), 0.0),
        lambda: scores_BV,
    )
    total_B = _logsumexp(logits_BV)
    sound_B = jnp.isfinite(total_B)
    token_B = jnp.where(sound_B, _argmax(noisy_BV, vocabulary), vocabulary.bos)
    hit_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=-1)[:, 0]
    return token_B, jnp.where(sound_B, hit_B - total_B, jnp.nan)


def check_sound(log_probability_B: np.ndarray) -> None:
    """Raises UserError where a row had no distribution: see `choose`."""
    rows = np.flatnonzero(np.isnan(log_probability_B))
    if len(rows):
        raise UserError(
            f"logits of row {rows[0]} are NaN or infinite: the weights are damaged, or their numbers leave the range "
            "of the model's dtype; take another checkpoint, or compute in float32"
        )


def distribution(
    logits_BV: jax.Array, settings: Settings, state: State, vocabulary: Vocabulary = BYTES
) -> jax.Array:
    """Probabilities that `choose` draws from, float32 [B, V].

    The order is the usual one of the transformers library:

    1. With valid_utf8, bytes that `inference.utf8` does not allow are no candidates.
    2. The repetition penalty divides the positive logits of the ids in the prompt and the output, and multiplies the
       others (CTRL, https://arxiv.org/abs/1909.05858, section 4.1, divides all of them, which would make one with a
       negative logit likelier). BOS has no penalty.
    3. Logits are divided by the temperature. At temperature 0 the largest has probability 1; of those that tie, the
       lowest id's.
    4. top-k drops what is less likely than the k-th likeliest candidate.
    5. top-p drops a candidate where those that are likelier have at least the share p of what top-k left. Their
       probabilities are summed in steps of 2**-22 of the likeliest's, which may move the share by 3e-5 at most; in
       larger steps where there are more candidates than bytes, see `_top_p`.
    6. min-p drops what is less likely than the share min_p of the likeliest candidate.

    Candidates that tie are dropped together or not at all. Where a row's logits have no distribution (see `choose`),
    its probabilities mean nothing.
    """
    scores_BV = _scores(logits_BV.astype(jnp.float32), settings, state, vocabulary)
    greedy_BV = jax.nn.one_hot(_argmax(scores_BV, vocabulary), vocabulary.rows)
    return jnp.where(settings.temperature_B[:, None] > 0, jax.nn.softmax(scores_BV, axis=-1), greedy_BV)


def alternatives(logits_BV: jax.Array, count: int, vocabulary: Vocabulary = BYTES) -> tuple[jax.Array, jax.Array]:
    """The likeliest tokens under the model's own distribution, likeliest first; of those that tie, the lowest.

    Returns:
      (log_probability_BK, token_BK): float32, natural logarithm; int32, bytes and BOS. K is `count`.
    """
    logits_BV = logits_BV.astype(jnp.float32)
    hit_BK, token_BK = jax.lax.top_k(logits_BV[:, : vocabulary.bos + 1], count)
    return hit_BK - _logsumexp(logits_BV)[:, None], token_BK


def _scores(logits_BV: jax.Array, settings: Settings, state: State, vocabulary: Vocabulary) -> jax.Array:
    """float32 [B, V], natural log-probabilities but for a constant of the row; -inf at what cannot be chosen.

    The largest is 0.
    """
    id_V = np.arange(vocabulary.rows)
    is_text_V, allowed_BV = id_V < vocabulary.bos, jnp.broadcast_to(id_V <= vocabulary.bos, logits_BV.shape)
    if vocabulary.is_bytes:
        left_B = jnp.clip(settings.max_bytes_B - state.written_B, 0, utf8.ENOUGH)
        allowed_BV &= jnp.asarray(utf8.ALLOWED_RSV)[left_B, state.utf8_B] | ~settings.valid_utf8_B[:, None]

    penalty_B1 = settings.repetition_penalty_B[:, None]
    penalised_BV = jnp.where(logits_BV > 0, logits_BV / penalty_B1, logits_BV * penalty_B1)
    scores_BV = jnp.where(state.seen_BV & is_text_V, penalised_BV, logits_BV)
    # A penalty may leave the range of float32; the largest score must stay a number, because it is subtracted.
    scores_BV = jnp.where(allowed_BV, jnp.clip(scores_BV, -_LARGEST, _LARGEST), -jnp.inf)
    scores_BV -= scores_BV.max(axis=-1, keepdims=True)
    is_drawn_B1 = settings.temperature_B[:, None] > 0
    # Infinity over an infinite temperature would be NaN.
    scores_BV = jnp.where(
        allowed_BV, scores_BV / jnp.where(is_drawn_B1, settings.temperature_B[:, None], 1.0), -jnp.inf
    )

    # How far a score lies below the largest, as integers.
    depth_BV = jax.lax.bitcast_convert_type(jnp.abs(scores_BV), jnp.int32)
    deepest_B = jnp.full(logits_BV.shape[:1], _INFINITY, jnp.int32)
    deepest_B = jax.lax.cond(
        (settings.top_k_B < vocabulary.rows).any(), lambda: _top_k(depth_BV, settings.top_k_B), lambda: deepest_B
    )
    deepest_B = jax.lax.cond(
        (settings.top_p_B < 1).any(),
        lambda: _top_p(depth_BV, scores_BV, deepest_B, settings.top_p_B),
        lambda: deepest_B,
    )
    stays_BV = (depth_BV <= deepest_B[:, None]) & (scores_BV >= settings.log_min_p_B[:, None])
    return jnp.where(stays_BV, scores_BV, -jnp.inf)


def _top_k(depth_BV: jax.Array, top_k_B: jax.Array) -> jax.Array:
    """int32 [B]: the depth of the k-th likeliest candidate."""
    return _bisect(lambda depth_B: (depth_BV <= depth_B[:, None]).sum(axis=-1) >= top_k_B, top_k_B)


def _top_p(depth_BV: jax.Array, scores_BV: jax.Array, deepest_B: jax.Array, top_p_B: jax.Array) -> jax.Array:
    """int32 [B]: the smallest depth down to which candidates have the share p of what `deepest_B` leaves."""
    p_BV = jnp.where(depth_BV <= deepest_B[:, None], jnp.exp(scores_BV), 0.0)
    # Sums of integers have no rounding, and so do not depend on the order in which a program of another batch adds. The
    # likeliest candidate's probability as an integer: as many of these as there are candidates are less than 2**31.
    one = 1 << 31 - p_BV.shape[1].bit_length()
    weight_BV = jnp.round(p_BV * one).astype(jnp.int32)
    total_B = weight_BV.sum(axis=-1)
    share_B = jnp.clip(jnp.ceil(top_p_B * total_B.astype(jnp.float32)).astype(jnp.int32), 1, total_B)

    def reaches(depth_B):
        return jnp.where(depth_BV <= depth_B[:, None], weight_BV, 0).sum(axis=-1) >= share_B

    return jnp.where(top_p_B < 1, jnp.minimum(_bisect(reaches, deepest_B), deepest_B), deepest_B)


def _bisect(holds, like_B: jax.Array) -> jax.Array:
    """int32 [B]: the smallest depth at which a condition holds that holds for all larger ones, or the largest depth.

    Sorting the vocabulary takes ten times as long on a CPU.
    """

    def halve(_, bounds):
        low_B, high_B = bounds
        middle_B = low_B + (high_B - low_B) // 2
        holds_B = holds(middle_B)
        return jnp.where(holds_B, low_B, middle_B + 1), jnp.where(holds_B, middle_B, high_B)

    bounds = (jnp.zeros_like(like_B), jnp.full_like(like_B, _INFINITY))
    return jax.lax.fori_loop(0, _INFINITY.bit_length(), halve, bounds)[0]


def _noise(settings: Settings, state: State, vocabulary: Vocabulary = BYTES) -> jax.Array:
    """float32 [B, V], standard Gumbel, from each row's seed and the number of the byte that it writes next."""

    def of_row(seed_2, written):
        # A key is made of both halves: `jax.random.key` of a seed would keep the lower one alone.
        key = jax.random.wrap_key_data(seed_2, impl="threefry2x32")
        return jax.random.gumbel(jax.random.fold_in(key, written), (vocabulary.rows,))

    return jax.vmap(of_row)(jnp.asarray(settings.seed_B2), jnp.asarray(state.written_B))


def _logsumexp(x_BV: jax.Array) -> jax.Array:
    """float32 [B], added in halves: a sum over an axis may be added in another order where there are more rows."""
    largest_B1 = x_BV.max(axis=-1, keepdims=True)
    sum_BN = jnp.exp(x_BV - largest_B1)
    while (size := sum_BN.shape[1]) > 1:
        half = -(-size // 2)
        sum_BN = sum_BN[:, :half] + jnp.pad(sum_BN[:, half:], ((0, 0), (0, 2 * half - size)))
    return (largest_B1 + jnp.log(sum_BN))[:, 0]


def _argmax(x_BV: jax.Array, vocabulary: Vocabulary) -> jax.Array:
    """int32 [B]: the lowest index of the largest. On a CPU several times as fast as `jnp.argmax`."""
    is_largest_BV = x_BV == x_BV.max(axis=-1, keepdims=True)
    rows = vocabulary.rows
    index_B = jnp.where(is_largest_BV, jnp.arange(rows, dtype=jnp.int32), rows).min(axis=-1)
    # Where a NaN is the largest, no index equals it.
    return jnp.minimum(index_B, vocabulary.bos)
