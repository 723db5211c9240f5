"""The layout of a batch: bytes and entropies in, masks and slots out.

Legend: B rows, L byte positions.
"""

import dataclasses

import jax
import jax.numpy as jnp

from scratchpatch import config as config_lib
from scratchpatch.patching import budget, documents, patchifiers, slots, triggers
from scratchpatch.vocabulary import PAD


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Thresholds:
    """float32, nats: scalars at which documents start; [B, L], that the score of each byte was held against."""

    patching: jax.Array
    trigger: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layout:
    """Decisions of one batch.

    commit_BL, scratchpad_BL: bool [B, L], never both. suppressed_*_B: int32
    [B], requests that the budget refused. start_BL: int32 [B, L], document
    starts. thresholds: float32 [B, L].
    """

    commit_BL: jax.Array
    scratchpad_BL: jax.Array
    suppressed_commits_B: jax.Array
    suppressed_scratchpads_B: jax.Array
    start_BL: jax.Array
    slots: slots.Slots
    thresholds: Thresholds


def initial_thresholds(config) -> Thresholds:
    """The thresholds that the config names."""
    return Thresholds(jnp.float32(config.patching.threshold), jnp.float32(config.trigger.threshold))


def nothing(tokens_BL: jax.Array) -> Layout:
    """No commit, no scratchpad, no slot: the layout of a model without a trunk."""
    start_BL = documents.starts(tokens_BL)
    none_BL, zero_B = jnp.zeros(tokens_BL.shape, bool), jnp.zeros(tokens_BL.shape[:1], jnp.int32)
    zero_BL = none_BL.astype(jnp.float32)
    built = slots.build(none_BL, none_BL, start_BL, 0, 0)
    return Layout(none_BL, none_BL, zero_B, zero_B, start_BL, built, Thresholds(zero_BL, zero_BL))


def decide(config, tokens_BL: jax.Array, entropy_BL: jax.Array | None, thresholds: Thresholds) -> Layout:
    """Patchifier, trigger, budgets and slots of a batch.

    Args:
      config: the experiment; reads `patching` and `trigger`.
      tokens_BL: int32 [B, L], bytes, BOS and PAD.
      entropy_BL: float32 [B, L], nats; None where no decision reads it.
      thresholds: scalars at which documents start.
    """
    start_BL = documents.starts(tokens_BL)
    valid_BL = tokens_BL != PAD
    request_BL, patching_BL = patchifiers.request(
        config.patching, tokens_BL, start_BL, valid_BL, entropy_BL, thresholds.patching
    )
    commit_BL = budget.grant(request_BL, start_BL, config_lib.commit_capacity(config))
    capacity = config_lib.scratchpad_capacity(config)
    if capacity:
        wish_BL, trigger_BL = triggers.request(
            config.trigger,
            tokens_BL,
            start_BL,
            slots.patch_starts(commit_BL, start_BL),
            valid_BL & ~commit_BL,
            entropy_BL,
            thresholds.trigger,
        )
        scratchpad_BL = budget.grant(wish_BL, start_BL, capacity)
    else:
        # No trigger, or none that could fire between byte-sized patches.
        wish_BL = scratchpad_BL = jnp.zeros_like(commit_BL)
        trigger_BL = jnp.broadcast_to(thresholds.trigger, patching_BL.shape)
    sizes = config_lib.slots(config, tokens_BL.shape[1])
    return Layout(
        commit_BL=commit_BL,
        scratchpad_BL=scratchpad_BL,
        suppressed_commits_B=(request_BL & ~commit_BL).sum(axis=1),
        suppressed_scratchpads_B=(wish_BL & ~scratchpad_BL).sum(axis=1),
        start_BL=start_BL,
        slots=slots.build(commit_BL, scratchpad_BL, start_BL, *sizes),
        thresholds=Thresholds(patching_BL, trigger_BL),
    )
