"""Slots: the trunk queries of a row, in arrays of static size.

Legend: B rows, L byte positions, P commits, S scratchpads, N = P + S slots.
Commits come first, then scratchpads, each in byte order, so that the trunk's
keys and values are a static slice.
"""

import dataclasses

import jax
import jax.numpy as jnp

from scratchpatch.patching import documents


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Slots:
    """All int32 [B, N] but `valid_BN` (bool) and `context_BL` (int32 [B, L]).

    end: byte position where the slot stands. start: first byte of its patch.
    commits: commits before it in the row. first: commits of the row before its
    document. It attends to commits [first, commits) and to itself; its RoPE
    position is commits - first. context_BL: the latest slot at or before each
    byte in its document; N where there is none yet.
    """

    end_BN: jax.Array
    start_BN: jax.Array
    commits_BN: jax.Array
    first_BN: jax.Array
    valid_BN: jax.Array
    context_BL: jax.Array


def patch_starts(commit_BL: jax.Array, start_BL: jax.Array) -> jax.Array:
    """int32 [B, L]: first byte of the patch that holds each position."""
    last_BL = documents.previous(documents.latest(commit_BL, start_BL), start_BL, -1)
    return jnp.maximum(last_BL + 1, start_BL)


def gather(x_BL: jax.Array, index_BN: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_BL, index_BN, axis=1)


def build(commit_BL: jax.Array, scratchpad_BL: jax.Array, start_BL: jax.Array, commits: int, scratchpads: int) -> Slots:
    """Masks to slots. The masks hold at most `commits` and `scratchpads` per row (see `budget`)."""
    rows, length = commit_BL.shape
    n_BL = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), (rows, length))

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

    before_BL = commit_index_BL + 1 - commit_BL
    slot_BL = jnp.where(commit_BL, commit_index_BL, commits + scratchpad_index_BL)
    last_BL = documents.latest(commit_BL | scratchpad_BL, start_BL)
    context_BL = jnp.where(last_BL < 0, commits + scratchpads, gather(slot_BL, jnp.maximum(last_BL, 0)))
    # An unused slot sees nothing but itself.
    used = lambda x_BN: jnp.where(valid_BN, x_BN, 0)  # noqa: E731
    return Slots(
        end_BN=end_BN,
        start_BN=used(gather(patch_starts(commit_BL, start_BL), end_BN)),
        commits_BN=used(gather(before_BL, end_BN)),
        first_BN=used(gather(gather(before_BL, start_BL), end_BN)),
        valid_BN=valid_BN,
        context_BL=context_BL,
    )
