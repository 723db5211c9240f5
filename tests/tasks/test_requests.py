"""Requests of three kinds, answered together."""

import math

import numpy as np
import pytest

from scratchpatch.inference.options import Options
from scratchpatch.tasks import requests
from scratchpatch.tasks.requests import Generation, Likelihood, Passage
from tests.tasks.models import language_model

OPTIONS = Options(max_bytes=5, temperature=1.0, seed=4)
ASKED = [
    Passage(b"a passage"),
    Generation(b"ab", OPTIONS),
    Likelihood(b"", b"start"),
    Likelihood(b"some context", b" end"),
    Generation(b"", OPTIONS),
    Likelihood(b"some context", b""),
    Likelihood(b"beyond the window " * 4, b"far"),
    Passage(b""),
]


@pytest.fixture(scope="module")
def answers():
    return requests.answer(language_model(), ASKED)


def test_likelihoods_are_those_of_score(answers):
    for index in (2, 3, 6):
        asked = ASKED[index]
        log2_p = language_model().score(asked.context + asked.continuation)[len(asked.context) :]
        assert answers[index].nats == pytest.approx(-log2_p.sum() * math.log(2), abs=1e-4)
        assert answers[index].byte_count == len(asked.continuation)
        assert answers[index].read == len(asked.context + asked.continuation)


def test_an_empty_continuation_is_certain(answers):
    assert answers[5] == requests.Likely(0.0, True, 0, len(ASKED[5].context))


def test_passages_have_nats_of_each_byte_and_slots(answers):
    segments = language_model().segment(b"a passage")
    np.testing.assert_allclose(answers[0].nats / -math.log(2), language_model().score(b"a passage"), atol=2e-5)
    # The BOS, which `segment` leaves out, may be a slot too.
    assert 0 <= answers[0].commits - segments.commit.sum() <= 1
    assert len(answers[7].nats) == 0


def test_generated_bytes_are_those_of_generate(answers):
    for index in (1, 4):
        assert answers[index] == language_model().generate(ASKED[index].prompt, max_bytes=5, temperature=1.0, seed=4)


def test_greedy_bytes_are_the_likeliest():
    greedy = language_model().generate(b"abc", max_bytes=4)
    right, wrong = Likelihood(b"abc", greedy), Likelihood(b"abc", greedy[:-1] + bytes([greedy[-1] ^ 1]))
    assert [answer.best for answer in requests.answer(language_model(), [right, wrong])] == [True, False]
