import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings, strategies as st

from scratchpatch.patching import controller
from tests import tiny
from tests.patching import reference
from tests.patching.strategies import LENGTH, entropies, masks, rows

CHUNK = 64
HIGHEST = math.log(264)  # of an entropy over so many ids


@functools.partial(jax.jit, static_argnames=("gain", "rate"))
def fire(score_BL, eligible_BL, rows, threshold, gain, rate):
    return controller.fire(score_BL, eligible_BL, rows, threshold, gain, rate)


@pytest.mark.parametrize("gain, rate", [(0.0, 0.25), (0.05, 0.25), (0.5, 0.1)])
@settings(max_examples=20)
@given(
    tokens_BL=rows(),
    score_BL=entropies(),
    eligible_BL=masks(),
    threshold=st.sampled_from((0.1, 0.737, 1.5, 4.9, 99.0)),
)
def test_fires_as_a_threshold_carried_from_byte_to_byte(gain, rate, tokens_BL, score_BL, eligible_BL, threshold):
    packed, valid_BL = tiny.rows(tokens_BL), tokens_BL != tiny.PAD
    eligible_BL = eligible_BL & valid_BL
    found = fire(score_BL, eligible_BL, packed, jnp.float32(threshold), gain, rate)
    fired_BL, threshold_BL = jax.device_get(found)
    for r, row in enumerate(tokens_BL.tolist()):
        for a, b in reference.spans(row):
            one, fires, thresholds = reference.Controller(float(np.float32(threshold)), gain, rate), [], []
            for n in range(a, b):
                fires.append(one.fire(n - a, float(score_BL[r, n]), bool(eligible_BL[r, n]), bool(valid_BL[r, n])))
                thresholds.append(one.threshold)
            assume(one.closest > 1e-5)
            assert fired_BL[r, a:b].tolist() == fires
            np.testing.assert_allclose(threshold_BL[r, a:b], thresholds, rtol=1e-5)


@settings(max_examples=12)
@given(seed=st.integers(0, 2**32 - 1), place=st.integers(0, LENGTH - 100))
def test_a_document_decides_alike_wherever_in_the_row_it_starts(seed, place):
    rng = np.random.default_rng(seed)
    document = tiny.pack(rng, [99], 100)
    score = rng.random(100).astype(np.float32) * 4
    fired = []
    for at in (0, place):
        tokens_BL = np.tile(tiny.pack(rng, [30, 30], LENGTH), (3, 1))
        score_BL = rng.random((3, LENGTH)).astype(np.float32) * 4
        tokens_BL[0, at : at + 100], score_BL[0, at : at + 100] = document, score
        packed, all_BL = tiny.rows(tokens_BL), np.ones((3, LENGTH), bool)
        fired_BL, _ = fire(score_BL, all_BL, packed, jnp.float32(1.3), 0.05, 0.25)
        fired.append(fired_BL[0, at : at + 100].tolist())
    assert fired[0] == fired[1]


@pytest.mark.parametrize("first", [126, 127, 128, 129])
def test_a_document_that_starts_at_a_chunks_edge_inherits_nothing(first):
    """At the chunk's last byte the threshold to carry on is the new document's, not the one before."""
    tokens_BL = tiny.pack(np.random.default_rng(0), [first - 1, 99], 300)[None]
    packed, all_BL = tiny.rows(tokens_BL), np.ones((1, 300), bool)
    assert packed.start_BL[0, first] == first
    score_BL = np.full((1, 300), 2.0, np.float32)
    fired_BL, threshold_BL = fire(score_BL, all_BL, packed, jnp.float32(1.5), 0.001, 0.25)
    wanted = 1.5 * np.exp(0.001 * 64 * 0.75 * (np.arange(99) // 64))
    np.testing.assert_allclose(threshold_BL[0, first : first + 99], wanted, rtol=1e-5)


def along(score_L, threshold=1.5, gain=0.01, rate=0.25, said=None):
    """(fired, thresholds) of one document of which every byte may fire; `said`: bytes before PAD."""
    score_BL = np.asarray(score_L, np.float32)[None]
    valid_BL = np.arange(score_BL.shape[1])[None] < (said or score_BL.shape[1])
    packed = tiny.rows(np.where(valid_BL, 7, tiny.PAD))
    fired_BL, threshold_BL = fire(score_BL, valid_BL, packed, jnp.float32(threshold), gain, rate)
    return np.asarray(fired_BL)[0], np.asarray(threshold_BL, np.float64)[0]


def test_the_rate_is_held():
    fired, _ = along(np.random.default_rng(0).random(64 * 64), threshold=0.99)
    assert abs(fired[2048:].mean() - 0.25) < 0.02


def test_hard_bytes_after_easy_ones_do_not_all_fire():
    rng = np.random.default_rng(0)
    # The threshold of 2.5 nats is the rate's on the hard bytes; nothing of the easy ones reaches it.
    fired, threshold = along(np.concatenate([rng.random(6000) * 0.01, 1 + 2 * rng.random(500)]), threshold=2.5)
    assert not fired[:6000].any() and threshold.min() == pytest.approx(2.5 * math.exp(-0.01 * 128), rel=1e-5)
    assert 0.3 < fired[6000:].mean() < 0.6
    # Of the last 244, which come after the bytes that the docstring names.
    assert fired[6000 + CHUNK + 3 * CHUNK :].mean() < 0.4


@pytest.mark.parametrize("gain, rate, chunks", [(0.03, 1 / 16, 3), (0.01, 0.25, 3), (0.002, 0.5, 4), (0.01, 0.75, 8)])
@pytest.mark.parametrize("turn", [0, 17, 63])
def test_a_calm_is_undone_within_the_bytes_that_the_docstring_names(gain, rate, chunks, turn):
    """128 / (1 - rate) bytes, in whole chunks, after the chunk in which the text turned; and not one chunk sooner."""
    calm = 64 * CHUNK + turn
    score = np.where(np.arange(80 * CHUNK) < calm, 0.0, 5.0)
    fired, threshold = along(score, gain=gain, rate=rate)
    assert threshold[: calm + 1].min() == pytest.approx(1.5 * math.exp(-gain * 128), rel=1e-5)
    turned = -(-calm // CHUNK) * CHUNK
    assert threshold[turned + chunks * CHUNK] >= 1.5 * (1 - 1e-5) and fired[calm:][: chunks * CHUNK].all()
    if turn == 0:
        assert threshold[turned + (chunks - 1) * CHUNK] < 1.5 * (1 - 1e-3)


@pytest.mark.parametrize("gain, rate, chunks", [(0.01, 0.25, 9), (0.1, 0.0625, 4), (1.0, 0.25, 1)])
def test_a_storm_is_undone_within_the_chunks_that_the_docstring_names(gain, rate, chunks):
    assert chunks == math.ceil(math.log(HIGHEST / 1.5) / (gain * rate * CHUNK))
    storm = 128 * CHUNK
    fired, threshold = along(np.where(np.arange(storm + 12 * CHUNK) < storm, 1e9, 0.0), gain=gain, rate=rate)
    assert threshold.max() == threshold[storm - 1] == pytest.approx(HIGHEST, rel=1e-5) and fired[:storm].all()
    assert threshold[storm + chunks * CHUNK] <= 1.5 * (1 + 1e-5)
    assert chunks == 1 or threshold[storm + (chunks - 1) * CHUNK] > 1.5


def test_a_threshold_never_falls_so_low_that_it_could_not_rise():
    for start in (1.5, 0.0):
        _, threshold = along(np.zeros(8 * CHUNK), threshold=start, gain=1.0)
        assert threshold[-1] == pytest.approx(1e-4, rel=1e-4)
    _, threshold = along(np.full(4 * CHUNK, 5.0), threshold=0.0, gain=0.1)
    assert threshold[-1] > 1.0


def test_an_infinite_threshold_under_a_controller_is_the_highest_that_a_score_could_reach():
    fired, threshold = along(np.full(3 * CHUNK, 5.5), threshold=np.inf, gain=0.05)
    assert threshold[0] == pytest.approx(HIGHEST, rel=1e-6)
    assert not fired[:CHUNK].any() and fired[CHUNK : 2 * CHUNK].all()
    fired, threshold = along(np.full(3 * CHUNK, 5.5), threshold=np.inf, gain=0.0)
    assert not fired.any() and np.isinf(threshold).all()


@pytest.mark.parametrize("said", [1, 63, 64, 65, 100])
def test_the_threshold_rests_at_pad(said):
    score = np.random.default_rng(0).random(5 * CHUNK) * 3
    fired, threshold = along(score, gain=0.05, said=said)
    whole_fired, whole = along(score, gain=0.05)
    assert (threshold[:said] == whole[:said]).all() and (fired[:said] == whole_fired[:said]).all()
    assert (threshold[said:] == threshold[said - 1]).all() and not fired[said:].any()
    assert said > CHUNK or (threshold == threshold[0]).all()
