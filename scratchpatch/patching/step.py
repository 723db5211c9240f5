"""Decisions one byte after the other: what `layout.decide` decides for whole rows, for rows of which a byte comes at a
time.

The rules are the same functions in both forms. What depends on more than the last few bytes (chopping, controllers,
budgets, the open patch) is a scan over whole rows there and a few numbers per row here: the `State`. Legend: B rows, C
bytes that are fed together, K = `scores.LOOK_BACK` + 1 bytes that end with this one.
"""

import dataclasses

import jax
import jax.numpy as jnp

from scratchpatch import config as config_lib
from scratchpatch.patching import budget, controller, patchifiers, triggers
from scratchpatch.patching.layout import Thresholds
from scratchpatch.patching.rows import tail
from scratchpatch.patching.scores import LOOK_BACK, Signals


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """All that decisions about the next byte of each row read of the bytes before it.

    The first axis of every array is B, so one row is put in another's place by an index on each of them. What belongs
    to a document alone is not reset when it ends: the first byte of the next does not read it.

    Attributes:
      offset_B: int32, the offset that the next byte has in its document, if it is no BOS.
      tokens_BK: int32 [B, K - 1], the last bytes.
      entropy_BK: float32 [B, K - 1], nats, their entropies; None where no rule reads entropies.
      patch_bytes_B: int32, bytes of the open patch; 0 after a commit.
      since_B: int32, bytes since the patchifier last asked for a commit, chopping left out.
      held_commit_B, held_scratchpad_B: bool, requests that wait for the end of a character.
      commit_slack_B, scratchpad_slack_B: int32, see `budget.step`.
      unbounded_B: bool, rows whose scratchpads no budget bounds.
      patching, trigger: where the controllers stand, and the thresholds at which the row's documents start.
    """

    offset_B: jax.Array
    tokens_BK: jax.Array
    entropy_BK: jax.Array | None
    patch_bytes_B: jax.Array
    since_B: jax.Array
    held_commit_B: jax.Array
    held_scratchpad_B: jax.Array
    commit_slack_B: jax.Array
    scratchpad_slack_B: jax.Array
    unbounded_B: jax.Array
    patching: controller.Standing
    trigger: controller.Standing


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Decision:
    """What was decided about one byte of each row, arrays [B]; about several bytes, arrays [B, C].

    Attributes:
      commit_B, scratchpad_B: bool, never both, neither at PAD.
      offset_B: int32, bytes since the document's start: 0 at its BOS. At PAD, of the byte that comes next.
      patch_bytes_B: int32, bytes of the patch that holds this byte, from its first byte to this one, which a commit
        here closes. At PAD, bytes of the open patch: 0 after a commit.
      thresholds: float32, nats, that the scores of this byte were held against. At PAD, those of the byte before.
    """

    commit_B: jax.Array
    scratchpad_B: jax.Array
    offset_B: jax.Array
    patch_bytes_B: jax.Array
    thresholds: Thresholds


def initial(config, thresholds: Thresholds, batch: int) -> State:
    """The state before the first byte of `batch` rows.

    A row may begin inside a document: a first byte that is no BOS has offset 0, as in `rows.pack`.

    Args:
      thresholds: float32, nats, at which the documents of the rows start: scalars, or [B] where rows differ.
    """
    zero_B = jnp.zeros((batch,), jnp.int32)
    zero_BK = jnp.zeros((batch, LOOK_BACK), jnp.int32)
    return State(
        offset_B=zero_B,
        tokens_BK=zero_BK,
        entropy_BK=zero_BK.astype(jnp.float32) if config_lib.reads_entropy(config) else None,
        patch_bytes_B=zero_B,
        since_B=zero_B,
        held_commit_B=jnp.zeros((batch,), bool),
        held_scratchpad_B=jnp.zeros((batch,), bool),
        commit_slack_B=zero_B,
        scratchpad_slack_B=zero_B,
        unbounded_B=jnp.zeros((batch,), bool),
        patching=controller.initial(thresholds.patching, config.patching.gain, 1 / config.patching.patch_bytes, batch),
        trigger=controller.initial(thresholds.trigger, config.trigger.gain, config.trigger.rate, batch),
    )


def dial(state: State, threshold_B, gain_B, rate_B, turned_B) -> State:
    """The state before a row's first byte, with a trigger of other numbers in the rows that are turned (bool [B]).

    Their scratchpads have no budget: only commits take up room that was set aside.

    Args:
      threshold_B: float32, nats; NaN: as it is.
      gain_B, rate_B: float32, see `controller.fire`.
    """
    old, batch = state.trigger, threshold_B.shape[0]
    new = controller.initial(jnp.where(jnp.isnan(threshold_B), old.opening_B, threshold_B), gain_B, rate_B, batch)
    trigger = jax.tree.map(lambda new, old: jnp.where(turned_B, new, old), new, old)
    return dataclasses.replace(state, trigger=trigger, unbounded_B=turned_B)


def step(config, state: State, token_B: jax.Array, signals: Signals) -> tuple[State, Decision]:
    """What `layout.decide` decides about the next byte of each row.

    A BOS starts a document wherever it comes. PAD decides nothing and leaves the state as it is, so that rows whose
    bytes come at different times can be fed together; no row has an influence on another.

    Args:
      config: `patching` and `trigger` are read, and whether the model has a trunk.
      token_B: int32 [B], a byte, BOS or PAD.
      signals: of this byte, [B].
    Returns:
      The state for the next byte, and the decision.
    """
    vocabulary, capacity = config_lib.vocabulary(config), config_lib.scratchpad_capacity(config)
    tokens_BK = jnp.concatenate([state.tokens_BK, token_B[:, None]], axis=1)
    entropy_BK = None
    if state.entropy_BK is not None:
        entropy_BK = jnp.concatenate([state.entropy_BK, signals.entropy_BL[:, None]], axis=1)
    offset_B = jnp.where(token_B == vocabulary.bos, 0, state.offset_B)
    patch_bytes_B = jnp.where(offset_B == 0, 0, state.patch_bytes_B) + 1
    # Of benefits and boundaries this byte's alone are read.
    of_byte = (None if x is None else x[:, None] for x in (signals.benefit_BLM, signals.boundary_BL))
    recent, signals = tail(tokens_BK, offset_B, vocabulary), Signals(entropy_BK, *of_byte)
    request_B, patching, since_B, held_commit_B = patchifiers.step(
        config.patching, recent, signals, state.patching, state.since_B, state.held_commit_B
    )
    commit_B, commit_slack_B = budget.step(
        state.commit_slack_B, request_B, offset_B, config_lib.commit_capacity(config)
    )
    valid_B = token_B != vocabulary.pad
    scratchpad_B, trigger, scratchpad_slack_B = jnp.zeros_like(commit_B), state.trigger, state.scratchpad_slack_B
    held_scratchpad_B = state.held_scratchpad_B
    if capacity:
        eligible_B = valid_B & ~commit_B
        wish_B, trigger, held_scratchpad_B = triggers.step(
            config.trigger, recent, patch_bytes_B, eligible_B, signals, state.trigger, held_scratchpad_B
        )
        granted_B, scratchpad_slack_B = budget.step(scratchpad_slack_B, wish_B, offset_B, capacity)
        scratchpad_B = jnp.where(state.unbounded_B, wish_B, granted_B)
    after = State(
        offset_B=offset_B + 1,
        tokens_BK=tokens_BK[:, 1:],
        entropy_BK=None if entropy_BK is None else entropy_BK[:, 1:],
        patch_bytes_B=jnp.where(commit_B, 0, patch_bytes_B),
        since_B=since_B,
        held_commit_B=held_commit_B,
        held_scratchpad_B=held_scratchpad_B,
        commit_slack_B=commit_slack_B,
        scratchpad_slack_B=scratchpad_slack_B,
        unbounded_B=state.unbounded_B,
        patching=patching,
        trigger=trigger,
    )

    def unless_pad(new, old):
        return jnp.where(valid_B.reshape(-1, *[1] * (new.ndim - 1)), new, old)

    state_after = jax.tree.map(unless_pad, after, state)
    return state_after, Decision(
        commit_B=commit_B,
        scratchpad_B=scratchpad_B,
        offset_B=unless_pad(offset_B, state.offset_B),
        patch_bytes_B=unless_pad(patch_bytes_B, state.patch_bytes_B),
        thresholds=Thresholds(state_after.patching.threshold_B, state_after.trigger.threshold_B),
    )


def scan(config, state: State, tokens_BC: jax.Array, signals: Signals) -> tuple[State, Decision]:
    """C steps: the state after them, and their decisions, [B, C].

    Args:
      tokens_BC: int32 [B, C], bytes, BOS and PAD.
      signals: of these tokens, [B, C].
    """

    def one(state, x):
        return step(config, state, *x)

    state, decisions = jax.lax.scan(one, state, jax.tree.map(lambda x: x.swapaxes(0, 1), (tokens_BC, signals)))
    return state, jax.tree.map(jnp.transpose, decisions)
