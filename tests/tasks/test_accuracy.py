"""Accuracies of graded questions."""

import math

import pytest

from scratchpatch.tasks import accuracy


def grade(gold=0, nats=(2.0, 3.0), unconditional=(2.0, 2.0), sizes=(2, 4), greedy=False, group=""):
    return {
        "gold": gold,
        "nats": list(nats),
        "unconditional_nats": list(unconditional),
        "bytes": list(sizes),
        "characters": [1] * len(nats),
        "scored_bytes": 4,
        "greedy": greedy,
        "group": group,
    }


def test_each_normalisation_chooses_for_itself():
    assert accuracy.hits(grade()) == {"raw": True, "per_byte": False, "per_character": True, "unconditional": True}
    assert accuracy.hits(grade(unconditional=(2.0, 4.0)))["unconditional"] is False


def test_the_first_of_those_that_tie_is_chosen():
    assert accuracy.hits(grade(0, (2.0, 2.0)))["raw"] is True
    assert accuracy.hits(grade(1, (2.0, 2.0)))["raw"] is False


def test_numbers_of_some_questions():
    three = grade(nats=(2.0, 3.0, 4.0), sizes=(1, 1, 1), unconditional=(0, 0, 0))
    numbers = accuracy.of([grade(), grade(), grade(1), three])
    assert numbers["accuracy"]["raw"]["mean"] == 0.75
    # As the harness has it: sqrt(p (1 - p) / (n - 1)).
    assert numbers["accuracy"]["raw"]["stderr"] == pytest.approx(math.sqrt(0.75 * 0.25 / 3))
    assert numbers["chance"] == pytest.approx((0.5 * 3 + 1 / 3) / 4)
    assert numbers["right_answer_nats"] == 2.25
    assert numbers["right_answer_bpb"] == pytest.approx(9 / math.log(2) / 16)
    assert "groups" not in numbers


def test_groups_count_alike_whatever_their_size():
    numbers = accuracy.of([grade(group="a"), grade(group="a"), grade(1, group="a"), grade(1, group="b")])
    assert numbers["groups"]["a"]["raw"] == pytest.approx(2 / 3)
    assert numbers["accuracy"]["raw"]["macro"] == pytest.approx(1 / 3)


def test_texts_to_continue_are_right_where_greedy_decoding_writes_them():
    numbers = accuracy.of([grade(nats=(2.0,), greedy=True), grade(nats=(1.0,))])
    assert numbers["accuracy"] == {"greedy": {"mean": 0.5, "stderr": 0.5}}
    assert numbers["chance"] is None
