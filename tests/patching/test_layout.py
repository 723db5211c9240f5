"""Every patchifier with every trigger, on given entropies, against a loop that sees one document's past."""

import functools
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from scratchpatch import config as config_lib, config_fields
from scratchpatch.patching import layout
from tests import tiny
from tests.patching import reference
from tests.patching.strategies import LENGTH, ROWS, WHOLE_CHARACTERS, entropies, rows
from tests.tiny import BOS, PAD

PAIRS = [
    {"patching.kind": patchifier, "trigger.kind": trigger}
    for patchifier, trigger in itertools.product(config_fields.PATCHIFIERS, config_fields.TRIGGERS)
]
CONTROLLED = [
    {"patching.kind": "entropy", "trigger.kind": "entropy_jump", "patching.gain": 0.05, "trigger.gain": 0.02},
    {"patching.kind": "entropy_jump", "trigger.kind": "entropy", "patching.gain": 0.02, "trigger.gain": 0.1},
    {
        "patching.kind": "entropy_and_jump",
        "trigger.kind": "none",
        "patching.gain": 0.03,
        "patching.jump": -0.4,
        "patching.commit_bos": True,
        "patching.capacity": 1.0,
    },
]
# BLT's rules at the beginning of a document.
OPENED = [
    {"patching.kind": p, "trigger.kind": t, "patching.jump": j, "patching.commit_bos": True, "patching.capacity": 1.0}
    for p, t, j in (
        ("byte", "none", 0.0),
        ("whitespace", "stride", 0.0),
        ("entropy", "entropy", 0.0),
        ("entropy_jump", "entropy_jump", 0.0),
        ("entropy_and_jump", "entropy", 0.5),
        ("entropy_and_jump", "every", -0.5),
    )
]


def name(fields):
    return "-".join(str(v) for v in fields.values())



@functools.cache
def compiled(fields):
    config = tiny.config(dict(fields))
    return jax.jit(lambda *arguments: layout.decide(config, *arguments))


def decide(fields, tokens_BL, entropy_BL, patching=1.335, trigger=1.5):
    thresholds = layout.Thresholds(jnp.float32(patching), jnp.float32(trigger))
    packed, signals = tiny.rows(tokens_BL), tiny.signals(entropy_BL)
    if fields in CONTROLLED + WHOLE_CHARACTERS:  # a scan: compile it once
        return compiled(tuple(fields.items()))(packed, signals, thresholds)
    return layout.decide(tiny.config(fields), packed, signals, thresholds)


thresholds = st.sampled_from((0.21, 0.83, 1.5, 3.7))


@pytest.mark.parametrize("fields", PAIRS + OPENED + CONTROLLED + WHOLE_CHARACTERS, ids=name)
@settings(max_examples=5)
@given(tokens_BL=rows(), entropy_BL=entropies(), patching=thresholds, trigger=thresholds)
def test_decisions_equal_a_loop_over_each_document(fields, tokens_BL, entropy_BL, patching, trigger):
    config = tiny.config(fields)
    got = jax.device_get(decide(fields, tokens_BL, entropy_BL, patching, trigger))
    assert not (got.commit_BL & got.scratchpad_BL).any()
    assert not ((got.commit_BL | got.scratchpad_BL) & (tokens_BL == PAD)).any()
    sizes = config_lib.slots(config, LENGTH)
    assert got.commit_BL.sum(axis=1).max() <= sizes[0] and got.scratchpad_BL.sum(axis=1).max() <= sizes[1]
    assert (got.slots.valid_BN.sum(axis=1) == (got.commit_BL | got.scratchpad_BL).sum(axis=1)).all()
    for r, tokens in enumerate(tokens_BL.tolist()):
        wanted = reference.decide(config, tokens, entropy_BL[r], patching, trigger)
        assume(all(min(d.patching.closest, d.trigger.closest) > 1e-5 for d in wanted))
        assert got.commit_BL[r].tolist() == sum([d.commit for d in wanted], [])
        assert got.scratchpad_BL[r].tolist() == sum([d.scratchpad for d in wanted], [])
        assert got.suppressed_commits_B[r] == sum(d.suppressed_commits for d in wanted)
        assert got.suppressed_scratchpads_B[r] == sum(d.suppressed_scratchpads for d in wanted)
        for section in ("patching", "trigger"):
            by_byte = sum([getattr(d, f"{section}_thresholds") for d in wanted], [])
            np.testing.assert_allclose(getattr(got.thresholds, section)[r], by_byte, rtol=1e-5)


@pytest.mark.parametrize("fields", PAIRS + OPENED + CONTROLLED + WHOLE_CHARACTERS, ids=name)
@settings(max_examples=3)
@given(
    rows=st.tuples(rows(), rows()),
    entropies=st.tuples(entropies(), entropies()),
    cut=st.integers(1, LENGTH - 1),
    document=st.integers(0, 10),
)
def test_decisions_know_neither_the_future_nor_other_documents(fields, rows, entropies, cut, document):
    base = decide(fields, rows[0], entropies[0])

    def same(tokens_BL, entropy_BL, where_BL):
        other = decide(fields, tokens_BL, entropy_BL)
        for mask in ("commit_BL", "scratchpad_BL"):
            changed_BL = np.asarray(getattr(base, mask) != getattr(other, mask))
            assert not (changed_BL & where_BL).any(), mask

    # Another future, with other documents in it.
    past_BL = np.broadcast_to(np.arange(LENGTH) < cut, (ROWS, LENGTH))
    same(np.where(past_BL, *rows), np.where(past_BL, *entropies), past_BL)
    # Another content of one document of the same length.
    fresh_BL = np.where(rows[1] < BOS, rows[1], 65)
    keep_BL = np.ones((ROWS, LENGTH), bool)
    for r, tokens in enumerate(rows[0].tolist()):
        begins = reference.spans(tokens)
        a, b = begins[document % len(begins)]
        keep_BL[r, a:b] = False
    content_BL = ~keep_BL & (rows[0] < BOS)
    same(np.where(content_BL, fresh_BL, rows[0]), np.where(keep_BL, *entropies), keep_BL)


@pytest.mark.parametrize("fields", [PAIRS[8], OPENED[-1], *CONTROLLED], ids=name)
@settings(max_examples=10)
@given(seed=st.integers(0, 2**32 - 1), place=st.integers(0, LENGTH - 90))
def test_a_document_decides_alike_wherever_in_the_row_it_starts(fields, seed, place):
    rng = np.random.default_rng(seed)
    document, entropy = tiny.pack(rng, [89], 90), rng.random(90).astype(np.float32) * 4
    tokens_BL = np.stack([tiny.pack(rng, [40, 30], LENGTH) for _ in range(ROWS)])
    entropy_BL = rng.random((ROWS, LENGTH)).astype(np.float32) * 4
    for r, at in enumerate((0, place)):
        tokens_BL[r, at : at + 90], entropy_BL[r, at : at + 90] = document, entropy
    got = decide(fields, tokens_BL, entropy_BL)
    for mask_BL in (got.commit_BL, got.scratchpad_BL):
        assert mask_BL[0, :90].tolist() == mask_BL[1, place : place + 90].tolist()


@settings(max_examples=15)
@given(tokens_BL=rows(), entropy_BL=entropies(), capacity=st.sampled_from((1 / 64, 0.2, 0.5)))
def test_overflow_only_reduces_refreshes(tokens_BL, entropy_BL, capacity):
    free, tight = (
        tiny.decide(
            tiny.config({"trigger.capacity": c, "patching.kind": "whitespace"}), tokens_BL, entropy_BL, trigger=0.4
        )
        for c in (1.0, capacity)
    )
    assert (free.commit_BL == tight.commit_BL).all()
    assert not (tight.scratchpad_BL & ~free.scratchpad_BL).any()
    assert (free.suppressed_scratchpads_B == 0).all()
    refused_B = (free.scratchpad_BL & ~tight.scratchpad_BL).sum(axis=1)
    assert (tight.suppressed_scratchpads_B == refused_B).all()


def masks(fields, **thresholds):
    rng = np.random.default_rng(1)
    tokens_BL = np.stack([tiny.pack(rng, [30, 50], LENGTH, pad=r) for r in range(ROWS)])
    entropy_BL = rng.random((ROWS, LENGTH)).astype(np.float32) + 0.01
    got = tiny.decide(tiny.config(fields), tokens_BL, entropy_BL, **thresholds)
    return np.asarray(got.commit_BL), np.asarray(got.scratchpad_BL), tokens_BL != PAD


@pytest.mark.parametrize(
    "patching", [{"patching.patch_bytes": p} for p in (1, 3, 16)] + [{"patching.kind": "whitespace"}]
)
def test_every_is_a_trunk_call_per_byte(patching):
    commit_BL, scratchpad_BL, valid_BL = masks({"trigger.kind": "every", **patching})
    assert ((commit_BL | scratchpad_BL) == valid_BL).all()


@pytest.mark.parametrize(
    "fields, thresholds",
    [
        ({"trigger.kind": "entropy", "trigger.capacity": 1.0}, {"trigger": 0.0}),
        ({"trigger.kind": "stride", "trigger.stride": 1}, {}),
        ({"trigger.kind": "random", "trigger.rate": 1.0}, {}),
    ],
    ids=["threshold 0", "stride 1", "rate 1"],
)
def test_limits_that_equal_every(fields, thresholds):
    for got, wanted in zip(masks(fields, **thresholds), masks({"trigger.kind": "every"}), strict=True):
        assert (got == wanted).all()


def test_limits_that_equal_none():
    none = masks({"trigger.kind": "none"})
    for fields in ({"trigger.kind": "entropy"}, {"trigger.kind": "entropy_jump"}):
        for got, wanted in zip(masks(fields, trigger=math.inf), none, strict=True):
            assert (got == wanted).all()


def test_fixed_patches_of_one_byte_are_bytes():
    for got, wanted in zip(masks({"patching.patch_bytes": 1}), masks({"patching.kind": "byte"}), strict=True):
        assert (got == wanted).all()


def test_a_controlled_threshold_is_the_same_in_a_row_of_its_own():
    """Documents shorter than a chunk of the controller, several to a chunk, decide as they do alone."""
    rng = np.random.default_rng(2)
    sizes, entropy_BL = [20, 7, 33, 40], rng.random((ROWS, LENGTH)).astype(np.float32) * 3
    tokens_BL = np.stack([tiny.pack(rng, sizes, LENGTH) for _ in range(ROWS)])
    packed = decide(CONTROLLED[0], tokens_BL, entropy_BL)
    for a, b in reference.spans(tokens_BL[0].tolist()):
        alone_BL, alone_entropy_BL = np.full((ROWS, LENGTH), PAD, np.int32), np.zeros((ROWS, LENGTH), np.float32)
        alone_BL[:, : b - a], alone_entropy_BL[:, : b - a] = tokens_BL[0, a:b], entropy_BL[0, a:b]
        alone = decide(CONTROLLED[0], alone_BL, alone_entropy_BL)
        assert alone.commit_BL[0, : b - a].tolist() == packed.commit_BL[0, a:b].tolist()
        assert alone.scratchpad_BL[0, : b - a].tolist() == packed.scratchpad_BL[0, a:b].tolist()
