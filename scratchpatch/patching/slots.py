"""Slots: the trunk queries of a row, in arrays of static size.

Legend: B rows, L byte positions, P commits, S scratchpads, N = P + S slots. Commits come first, then scratchpads, each
in byte order, so that the trunk's keys and values are a static slice.
"""

import dataclasses

import jax
import jax.numpy as jnp

from scratchpatch.patching.rows import Rows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """All int32 [B, N] but `valid_BN` (bool), `context_BL` (int32 [B, L]) and `commits` (static).

    Attributes:
      end_BN: byte position where the slot stands.
      start_BN: first byte of its patch.
      seen_from_BN, seen_to_BN: the slot attends to commits [seen_from, seen_to) of its row, those of its document that
        stand before it, and to itself.
      valid_BN: whether the slot is used.
      context_BL: the latest slot at or before each byte in its document; N where there is none yet.
      commits: P: the first so many slots are the commits.
    """

    end_BN: jax.Array
    start_BN: jax.Array
    seen_from_BN: jax.Array
    seen_to_BN: jax.Array
    valid_BN: jax.Array
    context_BL: jax.Array
    commits: int = dataclasses.field(metadata={"static": True})


def patch_starts(commit_BL: jax.Array, rows: Rows) -> jax.Array:
    """int32 [B, L]: first byte of the patch that holds each position."""
    last_BL = rows.previous(rows.latest(commit_BL), -1)
    return jnp.maximum(last_BL + 1, rows.start_BL)


def gather(x_BL: jax.Array, index_BN: jax.Array) -> jax.Array:
    """x at the positions of an index, row by row."""
    return jnp.take_along_axis(x_BL, index_BN, axis=1)


def build(commit_BL, scratchpad_BL, patch_start_BL, rows: Rows, commits: int, scratchpads: int) -> Slots:
    """Masks to slots.

    Args:
      commit_BL, scratchpad_BL: bool [B, L], at most `commits` and `scratchpads` of them in a row (see `budget`).
      patch_start_BL: int32 [B, L], see `patch_starts`.
      commits, scratchpads: static sizes P and S.
    """
    n_BL = jnp.broadcast_to(jnp.arange(commit_BL.shape[1], dtype=jnp.int32), commit_BL.shape)

    def place(mask_BL, size):
        index_BL = jnp.cumsum(mask_BL, axis=1, dtype=jnp.int32) - 1
        target_BL = jnp.where(mask_BL, index_BL, size)
        end_Bk = jax.vmap(lambda t, n: jnp.zeros((size,), jnp.int32).at[t].set(n, mode="drop"))(target_BL, n_BL)
        valid_Bk = jnp.arange(size) < mask_BL.sum(axis=1, keepdims=True)
        return index_BL, end_Bk, valid_Bk

    commit_index_BL, commit_end_BP, commit_valid_BP = place(commit_BL, commits)
    scratchpad_index_BL, scratchpad_end_BS, scratchpad_valid_BS = place(scratchpad_BL, scratchpads)
    end_BN = jnp.concatenate([commit_end_BP, scratchpad_end_BS], axis=1)
    valid_BN = jnp.concatenate([commit_valid_BP, scratchpad_valid_BS], axis=1)

    def at_slots(x_BL):
        # An unused slot sees nothing but itself.
        return jnp.where(valid_BN, gather(x_BL, end_BN), 0)

    before_BL = commit_index_BL + 1 - commit_BL
    slot_BL = jnp.where(commit_BL, commit_index_BL, commits + scratchpad_index_BL)
    last_BL = rows.latest(commit_BL | scratchpad_BL)
    return Slots(
        end_BN=end_BN,
        start_BN=at_slots(patch_start_BL),
        seen_from_BN=at_slots(gather(before_BL, rows.start_BL)),
        seen_to_BN=at_slots(before_BL),
        valid_BN=valid_BN,
        context_BL=jnp.where(last_BL < 0, commits + scratchpads, gather(slot_BL, jnp.maximum(last_BL, 0))),
        commits=commits,
    )
