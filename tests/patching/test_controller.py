import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from scratchpatch.patching import controller, documents
from tests import tiny
from tests.patching import reference
from tests.patching.strategies import LENGTH, entropies, masks, rows


@functools.partial(jax.jit, static_argnames=("gain", "rate"))
def fire(score_BL, eligible_BL, start_BL, threshold, gain, rate):
    return controller.fire(score_BL, eligible_BL, start_BL, threshold, gain, rate)


@pytest.mark.parametrize("gain, rate", [(0.0, 0.25), (0.05, 0.25), (0.5, 0.1)])
@settings(max_examples=20)
@given(tokens_BL=rows(), score_BL=entropies(), eligible_BL=masks(), threshold=st.sampled_from((0.1, 0.737, 1.5, 4.9)))
def test_fires_as_a_threshold_carried_from_byte_to_byte(gain, rate, tokens_BL, score_BL, eligible_BL, threshold):
    start_BL = documents.starts(jnp.asarray(tokens_BL))
    fired_BL, end_B = jax.device_get(fire(score_BL, eligible_BL, start_BL, jnp.float32(threshold), gain, rate))
    for r, row in enumerate(tokens_BL.tolist()):
        for a, b in reference.spans(row):
            one = reference.Controller(float(np.float32(threshold)), gain, rate)
            wanted = [one.fire(n, float(score_BL[r, a + n]), bool(eligible_BL[r, a + n])) for n in range(b - a)]
            assume(one.closest > 1e-5)
            assert fired_BL[r, a:b].tolist() == wanted
        assert math.isclose(end_B[r], one.threshold, rel_tol=1e-5)


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
        start_BL = documents.starts(jnp.asarray(tokens_BL))
        fired_BL, _ = fire(score_BL, np.ones((3, LENGTH), bool), start_BL, jnp.float32(1.3), 0.05, 0.25)
        fired.append(fired_BL[0, at : at + 100].tolist())
    assert fired[0] == fired[1]


def test_the_rate_is_held():
    rng = np.random.default_rng(0)
    score_BL = rng.random((1, 64 * 64)).astype(np.float32)
    always_BL, start_BL = np.ones(score_BL.shape, bool), np.zeros(score_BL.shape, np.int32)
    fired_BL, _ = fire(score_BL, always_BL, start_BL, jnp.float32(0.99), 0.01, 0.25)
    assert abs(float(fired_BL[:, 2048:].mean()) - 0.25) < 0.02


def test_an_infinite_threshold_stays_infinite():
    shape = (3, LENGTH)
    high_BL, always_BL, start_BL = np.full(shape, 5.5, np.float32), np.ones(shape, bool), np.zeros(shape, np.int32)
    fired_BL, end_B = fire(high_BL, always_BL, start_BL, jnp.float32(jnp.inf), 0.05, 0.25)
    assert not fired_BL.any() and np.isinf(end_B).all()
