"""Documents of pairs and questions: their shape, and that nothing but the pair says an answer."""

import hashlib
import re

import numpy as np
import pytest
from hypothesis import given, strategies as st

from scratchpatch.errors import UserError
from scratchpatch.tasks.pairs import Pairs

SHAPES = st.builds(Pairs, st.integers(1, 26), st.integers(1, 30), st.integers(0, 40), st.integers(0, 2**32 - 1))


@given(SHAPES, st.integers(0, 2**32))
def test_questions_have_the_values_of_their_pairs(shape, part):
    documents = shape.documents(3, part)
    assert documents.shape == (3, shape.length) and documents.dtype == np.uint8
    for document in documents:
        text = document.tobytes().decode("ascii")
        pattern = r"((?:[a-z]\d ?)+)(\.*); ((?:[a-z]\d ?)+)"
        told, dots, asked = re.fullmatch(pattern, text).groups()
        told, asked = told.split(" "), asked.split(" ")
        assert len(told) == len({pair[0] for pair in told}) == shape.pairs
        assert len(dots) == shape.distance
        assert len(asked) == shape.questions and set(asked) <= set(told)
        assert [pair[1] for pair in asked] == [chr(document[place]) for place in shape.answers]
        assert [pair[0] for pair in asked] == [chr(document[place - 1]) for place in shape.answers]


def test_documents_are_fixed_by_seed_and_part():
    first = Pairs().documents(4)
    assert hashlib.sha256(first.tobytes()).hexdigest()[:16] == "20b9c97f47710d83"
    assert (first == Pairs().documents(4)).all()
    for other in (Pairs().documents(4, part=1), Pairs(seed=1).documents(4)):
        assert (first != other).any()


def test_keys_values_and_order_are_even():
    shape = Pairs(pairs=4, questions=4, seed=3)
    documents = shape.documents(4000)
    values = np.bincount(documents[:, shape.answers].ravel() - ord("0"), minlength=10)
    keys = np.bincount(documents[:, 0] - ord("a"), minlength=26)
    # Five standard deviations.
    assert abs(values - 1600).max() < 5 * (16000 * 0.09) ** 0.5
    assert abs(keys - 4000 / 26).max() < 5 * (4000 / 26) ** 0.5
    told_DP, asked_DQ = documents[:, :12:3], documents[:, shape.answers - 1]
    places_DQ = np.argmax(asked_DQ[:, :, None] == told_DP[:, None], axis=2)
    # Of each question, and of each two that follow each other: they are drawn with replacement.
    for places in (*places_DQ.T, (places_DQ[:, 1:] - places_DQ[:, :-1])[:, 0] % 4):
        assert abs(np.bincount(places, minlength=4) - 1000).max() < 5 * 1000**0.5


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"pairs": 0}, "pairs = 0 must lie between 1 and 26"),
        ({"pairs": 27}, "pairs = 27 must lie between 1 and 26"),
        ({"questions": 0}, "questions = 0 must lie between 1 and 262144"),
        ({"distance": -1}, "distance = -1 must lie between 0 and 262144 bytes"),
        ({"seed": -1}, "seed = -1 must lie between 0 and 4294967295"),
    ],
)
def test_shapes_that_are_none(fields, message):
    with pytest.raises(UserError, match=re.escape(message)):
        Pairs(**fields)
