"""The layout of a batch: rows and signals in, masks and slots out. Legend: B rows, L byte positions."""

import dataclasses

import jax
import jax.numpy as jnp

from scratchpatch import config as config_lib
from scratchpatch.patching import budget, patchifiers, slots as slots_lib, triggers
from scratchpatch.patching.rows import Rows
from scratchpatch.patching.scores import Signals
from scratchpatch.patching.slots import Slots


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Thresholds:
    """float32, nats: scalars at which documents start; [B, L], that the score of each byte was held against."""

    patching: jax.Array
    trigger: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Layout:
    """Decisions of one batch, and all that what comes after them reads of the batch.

    Attributes:
      rows: tokens, and where documents start.
      commit_BL, scratchpad_BL: bool [B, L], never both.
      patch_start_BL: int32 [B, L], first byte of the patch that holds each position.
      suppressed_commits_B, suppressed_scratchpads_B: int32 [B], requests that the budget refused.
      slots: the trunk's queries, in arrays of static size.
      thresholds: float32 [B, L].
      boundary_BL: float32 [B, L], the probabilities that learned patches were decided by, with their gradient; None of
        other patches.
    """

    rows: Rows
    commit_BL: jax.Array
    scratchpad_BL: jax.Array
    patch_start_BL: jax.Array
    suppressed_commits_B: jax.Array
    suppressed_scratchpads_B: jax.Array
    slots: Slots
    thresholds: Thresholds
    boundary_BL: jax.Array | None = None

    def segments(self) -> Rows:
        """The rows as if a document began at each commit: a segment holds the bytes that read the same commit.

        The first segment of a document has no commit yet, and begins at the document's start. A segment begins one
        byte before a patch does, with the byte whose commit it reads.
        """
        start_BL = jnp.maximum(self.rows.latest(self.commit_BL), self.rows.start_BL)
        n_L = jnp.arange(start_BL.shape[1], dtype=jnp.int32)
        return dataclasses.replace(self.rows, start_BL=start_BL, offset_BL=n_L - start_BL)


def initial_thresholds(config) -> Thresholds:
    """The thresholds that the config names."""
    return Thresholds(jnp.float32(config.patching.threshold), jnp.float32(config.trigger.threshold))


def without_trunk(rows: Rows) -> Layout:
    """No commit, no scratchpad, no slot: the layout of a model without a trunk."""
    none_BL, zero_B = jnp.zeros(rows.tokens_BL.shape, bool), jnp.zeros(rows.tokens_BL.shape[:1], jnp.int32)
    zero_BL = none_BL.astype(jnp.float32)
    slots = slots_lib.build(none_BL, none_BL, rows.start_BL, rows, 0, 0)
    return Layout(rows, none_BL, none_BL, rows.start_BL, zero_B, zero_B, slots, Thresholds(zero_BL, zero_BL))


def with_scratchpads(config, base: Layout, scratchpad_BL: jax.Array | None) -> Layout:
    """The same commits with other scratchpads (bool [B, L], none where a commit stands); None: without any.

    Slots are made for one scratchpad in `model.benefit.horizon` positions of a row, as many as `benefit` asks for.
    """
    length, sequence = base.commit_BL.shape[1], max(config.mesh.sequence, 1)
    most = 0 if scratchpad_BL is None else -(-length // config.model.benefit.horizon)
    if scratchpad_BL is None:
        scratchpad_BL = jnp.zeros_like(base.commit_BL)
    commits, size = base.slots.commits, most + -most % sequence
    slots = slots_lib.build(base.commit_BL, scratchpad_BL, base.patch_start_BL, base.rows, commits, size)
    return dataclasses.replace(base, scratchpad_BL=scratchpad_BL, slots=slots)


def leaking(config, base: Layout) -> Layout:
    """What pooling and bytes read under `model.leak`, beside the layout of a causal model: for studies of leaks alone.

    broadcast: a byte reads the commit that closes its own patch, in its document. gaussian: so it does, and a commit
    pools as many bytes before and behind its patch as a patch has.
    """
    rows, slots, length = base.rows, base.slots, base.commit_BL.shape[1]
    closing_BL = jnp.cumsum(base.commit_BL, axis=1, dtype=jnp.int32) - base.commit_BL
    end_BL = slots_lib.gather(slots.end_BN, jnp.minimum(closing_BL, slots.commits - 1))
    closes_BL = closing_BL < base.commit_BL.sum(axis=1, keepdims=True)
    closes_BL &= slots_lib.gather(rows.start_BL, end_BL) == rows.start_BL
    slots = dataclasses.replace(slots, context_BL=jnp.where(closes_BL, closing_BL, slots.context_BL))
    if config.model.leak == "gaussian":
        reach, n_L = config.patching.patch_bytes, jnp.arange(length, dtype=jnp.int32)
        starts_BL = jnp.where(rows.start_BL == n_L, n_L, length)
        # Where the document after each position's begins.
        next_BL = jax.lax.cummin(starts_BL, axis=1, reverse=True)[:, 1:]
        next_BL = jnp.pad(next_BL, ((0, 0), (0, 1)), constant_values=length)
        last_BN, first_BN = (slots_lib.gather(x, slots.end_BN) for x in (next_BL - 1, rows.start_BL))
        end_BN = jnp.minimum(slots.end_BN + reach, last_BN)
        slots = dataclasses.replace(slots, end_BN=end_BN, start_BN=jnp.maximum(slots.start_BN - reach, first_BN))
    return dataclasses.replace(base, slots=slots)


def decide(config, rows: Rows, signals: Signals, thresholds: Thresholds, scratchpads: bool = True) -> Layout:
    """Patchifier, trigger, budgets and slots of a batch, whose documents start at these thresholds (scalars).

    Of the config, `patching` and `trigger` are read, and `mesh.sequence`, which divides the slots. scratchpads: False:
    there are none, and nothing of the trigger is read.
    """
    request_BL, patching_BL = patchifiers.request(config.patching, rows, signals, thresholds.patching)
    commit_BL = budget.grant(request_BL, rows, config_lib.commit_capacity(config))
    patch_start_BL = slots_lib.patch_starts(commit_BL, rows)
    capacity = config_lib.scratchpad_capacity(config) if scratchpads else 0
    if capacity:
        eligible_BL = rows.valid_BL & ~commit_BL
        wish_BL, trigger_BL = triggers.request(
            config.trigger, rows, patch_start_BL, eligible_BL, signals, thresholds.trigger
        )
        scratchpad_BL = budget.grant(wish_BL, rows, capacity)
    else:
        # No trigger, or none that could fire between byte-sized patches.
        wish_BL = scratchpad_BL = jnp.zeros_like(commit_BL)
        trigger_BL = jnp.broadcast_to(thresholds.trigger, patching_BL.shape)
    commits, most = config_lib.slots(config, rows.tokens_BL.shape[1])
    return Layout(
        rows=rows,
        commit_BL=commit_BL,
        scratchpad_BL=scratchpad_BL,
        patch_start_BL=patch_start_BL,
        suppressed_commits_B=(request_BL & ~commit_BL).sum(axis=1),
        suppressed_scratchpads_B=(wish_BL & ~scratchpad_BL).sum(axis=1),
        slots=slots_lib.build(commit_BL, scratchpad_BL, patch_start_BL, rows, commits, most if capacity else 0),
        thresholds=Thresholds(patching_BL, trigger_BL),
        boundary_BL=signals.boundary_BL,
    )
