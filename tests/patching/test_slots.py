import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings

from scratchpatch.patching import slots
from tests import tiny
from tests.patching import reference
from tests.patching.strategies import LENGTH, ROWS, masks, rows


def build(commit_BL, scratchpad_BL, tokens_BL, sizes):
    packed, commit_BL = tiny.rows(tokens_BL), jnp.asarray(commit_BL)
    patch_start_BL = slots.patch_starts(commit_BL, packed)
    return slots.build(commit_BL, jnp.asarray(scratchpad_BL), patch_start_BL, packed, *sizes)


@settings(max_examples=30)
@given(tokens_BL=rows(), commit_BL=masks(), scratchpad_BL=masks())
def test_slots_equal_a_walk_over_the_row(tokens_BL, commit_BL, scratchpad_BL):
    scratchpad_BL = scratchpad_BL & ~commit_BL
    got = jax.device_get(build(commit_BL, scratchpad_BL, tokens_BL, (LENGTH, LENGTH)))
    for r, row in enumerate(tokens_BL.tolist()):
        used, commits, scratchpads = {}, 0, 0
        for a, b in reference.spans(row):
            first, patch_start, context = commits, a, 2 * LENGTH
            for n in range(a, b):
                if commit_BL[r, n] or scratchpad_BL[r, n]:
                    context = commits if commit_BL[r, n] else LENGTH + scratchpads
                    used[context] = (n, patch_start, commits, first)
                if commit_BL[r, n]:
                    commits, patch_start = commits + 1, n + 1
                scratchpads += bool(scratchpad_BL[r, n])
                assert got.context_BL[r, n] == context
        for i in range(2 * LENGTH):
            is_used = i in used
            wanted = used.get(i, (0, 0, 0, 0))
            assert bool(got.valid_BN[r, i]) == is_used
            assert (got.end_BN[r, i], got.start_BN[r, i], got.seen_to_BN[r, i], got.seen_from_BN[r, i]) == wanted


@settings(max_examples=20)
@given(tokens_BL=rows(), commit_BL=masks())
def test_every_byte_is_in_exactly_one_patch(tokens_BL, commit_BL):
    patch_start_BL = np.asarray(slots.patch_starts(jnp.asarray(commit_BL), tiny.rows(tokens_BL)))
    n_L = np.arange(LENGTH)
    for r, row in enumerate(tokens_BL.tolist()):
        # A patch begins where a document does or after a commit, and runs on until the next begins.
        begins = sorted({*reference.starts(row), *(n + 1 for n in np.flatnonzero(commit_BL[r]) if n + 1 < LENGTH)})
        sizes = np.diff([*begins, LENGTH])
        assert patch_start_BL[r].tolist() == np.repeat(begins, sizes).tolist()
        assert (patch_start_BL[r] <= n_L).all()


def test_latest_slot_is_the_context_so_a_scratchpad_everywhere_leaves_no_lag():
    tokens_BL = np.full((ROWS, LENGTH), 65, np.int32)
    commit_BL = np.tile(np.arange(LENGTH) % 5 == 4, (ROWS, 1))
    got = build(commit_BL, ~commit_BL, tokens_BL, (LENGTH // 5, LENGTH - LENGTH // 5))
    assert (jnp.take_along_axis(got.end_BN, got.context_BL, axis=1) == jnp.arange(LENGTH)).all()


def test_no_scratchpads_need_no_slots():
    tokens_BL = np.full((1, 6), 65, np.int32)
    commit_BL = np.array([[False, True, False, False, True, False]])
    got = build(commit_BL, np.zeros_like(commit_BL), tokens_BL, (2, 0))
    assert got.end_BN.tolist() == [[1, 4]] and got.start_BN.tolist() == [[0, 2]]
    assert got.context_BL.tolist() == [[2, 0, 0, 0, 1, 1]]
