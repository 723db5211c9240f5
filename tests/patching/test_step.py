"""Steps against whole rows: the same decisions at every position, so on every prefix of every document."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from scratchpatch import config_fields
from scratchpatch.patching import layout, step as step_lib
from scratchpatch.patching.scores import Signals
from tests import tiny
from tests.patching.strategies import ROWS, WHOLE_CHARACTERS, entropies, rows
from tests.tiny import BOS, PAD

LENGTH = 230  # three whole chunks of the controller and a part
FED = 300  # the same bytes with PAD between them

# Every patchifier, every trigger, each of them free and with a budget that refuses.
KINDS = [
    {
        "patching.kind": patchifier,
        "patching.capacity": commits,
        "trigger.kind": trigger,
        "trigger.capacity": scratchpads,
    }
    for patchifier, trigger, commits, scratchpads in zip(
        ("fixed", "byte", *config_fields.PATCHIFIERS),
        itertools.cycle(config_fields.TRIGGERS),
        itertools.cycle((0.0, 1.0, 0.07)),
        itertools.cycle((0.11, 0.0)),
        strict=False,
    )
]
# Controllers, and BLT's rules at the beginning of a document.
MORE = [
    {
        "patching.kind": "entropy",
        "patching.gain": 0.05,
        "trigger.kind": "entropy_jump",
        "trigger.gain": 0.02,
        "trigger.capacity": 0.3,
    },
    {
        "patching.kind": "entropy_jump",
        "patching.gain": 0.02,
        "patching.capacity": 0.15,
        "trigger.kind": "entropy",
        "trigger.gain": 0.1,
    },
    {
        "patching.kind": "entropy_and_jump",
        "patching.gain": 0.03,
        "patching.jump": -0.4,
        "patching.commit_bos": True,
        "patching.capacity": 1.0,
        "trigger.kind": "stride",
    },
    {
        "patching.kind": "entropy_jump",
        "patching.commit_bos": True,
        "patching.capacity": 1.0,
        "trigger.kind": "whitespace",
    },
    {
        "patching.kind": "whitespace",
        "patching.commit_bos": True,
        "patching.capacity": 1.0,
        "trigger.kind": "random",
        "trigger.rate": 0.4,
    },
    *WHOLE_CHARACTERS,
]
MOVING = MORE[1]


def name(fields):
    return "-".join(str(v) for v in fields.values())


each_kind = pytest.mark.parametrize("fields", KINDS + MORE, ids=name)


@functools.cache
def programs(items):
    """Compiled for a config: `layout.decide` of rows that start at thresholds of their own, and `scan`."""
    config = tiny.config(dict(items))

    def whole(tokens_L, entropy_L, patching, trigger):
        packed, signals = tiny.rows(tokens_L[None]), tiny.signals(entropy_L[None])
        decided = layout.decide(config, packed, signals, layout.Thresholds(patching, trigger))
        first_L, offset_L = decided.patch_start_BL[0], packed.offset_BL[0]
        patch_bytes_L = jnp.arange(tokens_L.shape[0]) - first_L + 1
        masks = decided.commit_BL[0], decided.scratchpad_BL[0]
        return *masks, offset_L, patch_bytes_L, decided.thresholds.patching[0], decided.thresholds.trigger[0]

    def scan(state, tokens_BC, entropy_BC):
        return step_lib.scan(config, state, tokens_BC, tiny.signals(entropy_BC))

    return jax.jit(jax.vmap(whole)), jax.jit(scan)


def initial(fields, patching_B, trigger_B):
    starts = layout.Thresholds(jnp.asarray(patching_B, jnp.float32), jnp.asarray(trigger_B, jnp.float32))
    return step_lib.initial(tiny.config(fields), starts, ROWS)


def arrays(decision):
    d = jax.device_get(decision)
    return d.commit_B, d.scratchpad_B, d.offset_B, d.patch_bytes_B, d.thresholds.patching, d.thresholds.trigger


def fed(places_BL, x_BL, fill):
    """[B, FED]: each row's elements at their places, and the fill elsewhere."""
    x_BC = np.full((ROWS, FED), fill, x_BL.dtype)
    np.put_along_axis(x_BC, places_BL, x_BL, axis=1)
    return x_BC


@st.composite
def places(draw) -> np.ndarray:
    """int64 [ROWS, LENGTH], rising: when each byte of a row comes, among FED; sometimes one after the other."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    at_once = np.arange(LENGTH)
    return np.stack(
        [at_once if draw(st.booleans()) else np.sort(rng.choice(FED, LENGTH, replace=False)) for _ in range(ROWS)]
    )


def near(entropy_BL, threshold_BL) -> bool:
    """Whether an entropy or a jump of entropies is the threshold of its byte, up to rounding."""
    jump_BL = np.diff(entropy_BL, axis=1, prepend=np.inf)
    return any((np.abs(x_BL / threshold_BL - 1) < 2e-6).any() for x_BL in (entropy_BL, jump_BL))


thresholds = st.lists(st.sampled_from((0.21, 0.83, 1.5, 3.7)), min_size=ROWS, max_size=ROWS)


@each_kind
@settings(max_examples=8)
@given(
    tokens_BL=rows(LENGTH),
    entropy_BL=entropies(LENGTH),
    places_BL=places(),
    patching_B=thresholds,
    trigger_B=thresholds,
)
def test_steps_decide_what_whole_rows_decide(fields, tokens_BL, entropy_BL, places_BL, patching_B, trigger_B):
    whole, scan = programs(tuple(fields.items()))
    tokens_BC, entropy_BC = fed(places_BL, tokens_BL, PAD), fed(places_BL, entropy_BL, np.nan)
    state, decisions = scan(initial(fields, patching_B, trigger_B), tokens_BC, entropy_BC)
    got = [np.take_along_axis(x_BC, places_BL, axis=1) for x_BC in arrays(decisions)]
    wanted = jax.device_get(whole(tokens_BL, entropy_BL, np.float32(patching_B), np.float32(trigger_B)))
    valid_BL = tokens_BL != PAD
    # A threshold that moved through logarithms is rounded in another order, and float32 may decide either way near it.
    moving = any(fields.get(f"{section}.gain") for section in ("patching", "trigger"))
    assume(not moving or not any(near(entropy_BL, threshold_BL) for threshold_BL in wanted[4:]))
    for got_BL, wanted_BL in zip(got[:2], wanted[:2], strict=True):
        np.testing.assert_array_equal(got_BL, wanted_BL)
    for got_BL, wanted_BL in zip(got[2:4], wanted[2:4], strict=True):
        np.testing.assert_array_equal(got_BL[valid_BL], wanted_BL[valid_BL])
    for got_BL, wanted_BL in zip(got[4:], wanted[4:], strict=True):
        np.testing.assert_allclose(got_BL, wanted_BL, rtol=1e-6 if moving else 0)
    commit_BC, scratchpad_BC = arrays(decisions)[:2]
    assert not (commit_BC & scratchpad_BC).any()
    assert not ((commit_BC | scratchpad_BC) & (tokens_BC == PAD)).any()
    # The state stands behind the last byte.
    assert state.offset_B.tolist() == [
        offset_L[valid_L][-1] + 1 for offset_L, valid_L in zip(wanted[2], valid_BL, strict=True)
    ]


def drawn(seed: int):
    """(tokens, entropies) of ROWS rows: documents of all lengths, one row inside a document, one with PAD."""
    rng = np.random.default_rng(seed)
    sizes = [100, 0, 3, 40], [70], [1, 1, 190]
    tokens_BL = np.stack(
        [tiny.pack(rng, lengths, LENGTH, inside=r == 1, pad=9 * (r == 2)) for r, lengths in enumerate(sizes)]
    )
    return tokens_BL, (rng.random((ROWS, LENGTH)) * 4).astype(np.float32)


@pytest.mark.parametrize("fields", [KINDS[4], *MORE], ids=name)
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(0, FED), max_size=4))
def test_a_scan_goes_on_where_the_one_before_it_stopped(fields, seed, cuts):
    _, scan = programs(tuple(fields.items()))
    tokens_BL, entropy_BL = drawn(seed)
    places_BL = np.tile(np.arange(LENGTH), (ROWS, 1))
    tokens_BC, entropy_BC = fed(places_BL, tokens_BL, PAD), fed(places_BL, entropy_BL, 0.0)
    start = initial(fields, [0.83] * ROWS, [1.5] * ROWS)
    whole_state, whole = scan(start, tokens_BC, entropy_BC)
    state, parts = start, []
    for a, b in itertools.pairwise([0, *sorted(cuts), FED]):
        # A shape of its own would compile a program of its own: PAD stands for what comes before and after.
        now_C = (np.arange(FED) >= a) & (np.arange(FED) < b)
        state, decisions = scan(state, np.where(now_C, tokens_BC, PAD), entropy_BC)
        parts.append([x_BC[:, a:b] for x_BC in arrays(decisions)])
    for got, wanted in zip(zip(*parts, strict=True), arrays(whole), strict=True):
        np.testing.assert_array_equal(np.concatenate(got, axis=1), wanted)
    jax.tree.map(np.testing.assert_array_equal, state, whole_state)


def test_single_steps_and_scans_of_other_lengths_are_the_same():
    config = tiny.config(MOVING)
    tokens_BL, entropy_BL = drawn(0)
    _, scan = programs(tuple(MOVING.items()))
    one = jax.jit(lambda state, token_B, entropy_B: step_lib.step(config, state, token_B, Signals(entropy_B)))
    start = initial(MOVING, [0.83] * ROWS, [1.5] * ROWS)
    state, singles = start, []
    for n in range(LENGTH):
        state, decision = one(state, tokens_BL[:, n], entropy_BL[:, n])
        singles.append(arrays(decision))
    middle, early = scan(start, tokens_BL[:, :100], entropy_BL[:, :100])
    last, late = scan(middle, tokens_BL[:, 100:], entropy_BL[:, 100:])
    for single, a_BC, b_BC in zip(zip(*singles, strict=True), arrays(early), arrays(late), strict=True):
        np.testing.assert_array_equal(np.stack(single, axis=1), np.concatenate([a_BC, b_BC], axis=1))
    jax.tree.map(np.testing.assert_array_equal, state, last)


def test_pad_leaves_the_state_as_it_is():
    _, scan = programs(tuple(MOVING.items()))
    tokens_BL, entropy_BL = drawn(1)
    start = initial(MOVING, [0.83] * ROWS, [1.5] * ROWS)
    state, _ = scan(start, fed(np.tile(np.arange(LENGTH), (ROWS, 1)), tokens_BL, PAD), np.zeros((ROWS, FED)))
    nothing_BC = np.full((ROWS, FED), PAD, np.int32)
    for before in (start, state):
        after, decisions = scan(before, nothing_BC, np.full((ROWS, FED), 99.0, np.float32))
        jax.tree.map(np.testing.assert_array_equal, after, before)
        assert not decisions.commit_B.any() and not decisions.scratchpad_B.any()
        assert (decisions.thresholds.trigger == before.trigger.threshold_B[:, None]).all()


@pytest.mark.parametrize("fields", [KINDS[4], *MORE], ids=name)
def test_a_row_decides_alike_whatever_the_others_do_and_wherever_it_stands(fields):
    """Rows whose bytes come in turns, against each row alone, in another place, at once."""
    _, scan = programs(tuple(fields.items()))
    tokens_BL, entropy_BL = drawn(2)
    patching_B, trigger_B = [0.3, 0.9, 2.0], [1.5, 0.4, 0.9]
    turns_BL = np.stack([np.sort(np.random.default_rng(r).choice(FED, LENGTH, replace=False)) for r in range(ROWS)])
    _, together = scan(
        initial(fields, patching_B, trigger_B), fed(turns_BL, tokens_BL, PAD), fed(turns_BL, entropy_BL, 9.0)
    )
    together = [np.take_along_axis(x_BC, turns_BL, axis=1) for x_BC in arrays(together)]
    for r in range(ROWS):
        place, others = (r + 1) % ROWS, initial(fields, [0.1] * ROWS, [0.1] * ROWS)
        own = initial(fields, patching_B, trigger_B)
        # One row of a state is put in another's place.
        state = jax.tree.map(lambda x, y, place=place, r=r: x.at[place].set(y[r]), others, own)
        alone_BC, entropy_BC = np.full((ROWS, FED), BOS, np.int32), np.full((ROWS, FED), 5.0, np.float32)
        alone_BC[place] = np.concatenate([tokens_BL[r], np.full(FED - LENGTH, PAD)])
        entropy_BC[place, :LENGTH] = entropy_BL[r]
        _, alone = scan(state, alone_BC, entropy_BC)
        for got_BL, wanted_BC in zip(together, arrays(alone), strict=True):
            np.testing.assert_array_equal(got_BL[r], wanted_BC[place, :LENGTH])


def test_what_reads_no_entropies_needs_none():
    fields = {
        "patching.kind": "whitespace",
        "trigger.kind": "every",
    }
    state = initial(fields, 1.0, 1.0)
    assert state.entropy_BK is None
    tokens_BC = jnp.asarray([[BOS, *b"ab c", PAD]] * ROWS, jnp.int32)
    state, decisions = step_lib.scan(tiny.config(fields), state, tokens_BC, Signals())
    assert decisions.commit_B[0].tolist() == [False, False, False, True, False, False]
    assert decisions.scratchpad_B[0].tolist() == [True, True, True, False, True, False]
    assert decisions.offset_B[0].tolist() == [0, 1, 2, 3, 4, 5]
    assert decisions.patch_bytes_B[0].tolist() == [1, 2, 3, 4, 1, 1]
    assert state.offset_B.tolist() == [5] * ROWS and state.patch_bytes_B.tolist() == [1] * ROWS
