"""Documents side by side are scored as one by one."""

import random

import numpy as np
import pytest

from scratchpatch.inference import language_model as language_model_lib, scoring
from tests.inference.models import WINDOW, language_model

DOCUMENTS = [b"", b"a", b"hello", bytes(range(40)), b"longer than the window " * 5, b"a", b"\xff" * WINDOW]


def scored(documents):
    return {index: positions for index, positions in scoring.positions(language_model(), documents)}


@pytest.fixture(scope="module")
def found():
    return scored(DOCUMENTS)


def test_each_document_is_scored_as_alone(found):
    assert sorted(found) == list(range(len(DOCUMENTS)))
    for index, document in enumerate(DOCUMENTS):
        assert len(found[index].nats) == len(document) + 1
        log2_p = -found[index].nats[: len(document)] / np.log(2)
        np.testing.assert_allclose(log2_p, language_model().score(document), atol=2e-5)


def test_neither_order_nor_company_changes_a_bit(found):
    order = list(range(len(DOCUMENTS)))
    random.Random(3).shuffle(order)
    shuffled = scored([DOCUMENTS[index] for index in order] * 2)
    for place, index in enumerate(order * 2):
        np.testing.assert_array_equal(shuffled[place].nats, found[index].nats)
        np.testing.assert_array_equal(shuffled[place].commit, found[index].commit)


def test_more_rows_than_one_call_takes(found, monkeypatch):
    monkeypatch.setattr(type(language_model()), "rows_per_call", lambda self, length: 2)
    few = scored(DOCUMENTS)
    for index in found:
        np.testing.assert_allclose(few[index].nats, found[index].nats, atol=2e-5)


def test_best_says_whether_the_byte_is_the_likeliest():
    lm = language_model()
    prompt = b"abc"
    likeliest = lm.generate(prompt, max_bytes=1)
    other = bytes([likeliest[0] ^ 1])
    found = scored([prompt + likeliest, prompt + other])
    assert [bool(found[index].best[len(prompt)]) for index in (0, 1)] == [True, False]


def test_of_tokens_that_tie_the_lowest_is_the_likeliest():
    rng = np.random.default_rng(0)
    # Few values, so that most rows have ties.
    logits = rng.integers(0, 3, (40, 25, 7)).astype(np.float32)
    targets = rng.integers(0, 7, (40, 25))
    best = language_model_lib._is_best(logits, targets)
    np.testing.assert_array_equal(best, logits.argmax(axis=-1) == targets)
    assert 0 < best.sum() < (logits.max(axis=-1, keepdims=True) == logits).sum()
    assert not language_model_lib._is_best(logits * np.nan, targets).any()


def test_bytes_are_counted_as_they_are_read():
    seen = []
    list(scoring.positions(language_model(), DOCUMENTS, seen.append))
    assert sum(seen) == sum(len(document) + 1 for document in DOCUMENTS)
