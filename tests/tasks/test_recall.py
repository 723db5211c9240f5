"""The task `recall`: what it grades, and what its numbers are."""

import math

import numpy as np
import pytest

from scratchpatch.errors import UserError
from scratchpatch.tasks import evaluate, names
from scratchpatch.tasks.pairs import Pairs
from scratchpatch.tasks.recall import Recall
from scratchpatch.tasks.requests import Passed
from scratchpatch.tasks.task import Setting
from tests.inference import test_tokens
from tests.tasks.models import language_model

TASK = Recall(pairs=3, questions=3, distance=4, documents=5, seed=7)


def test_the_values_of_questions_alone_are_graded():
    text = b"m7 y6 n4....; y6 m7 y6"
    nats = np.arange(len(text), dtype=np.float64)
    best = np.zeros(len(text), bool)
    best[[15, 21]] = True
    grade = TASK.grade(TASK.items()[0], [Passed(nats, best, np.ones(len(text), bool), 5, 2)])
    assert [text[place : place + 1] for place in Pairs(pairs=3, questions=3, distance=4).answers] == [b"6", b"7", b"6"]
    assert grade["right"] == [True, False, True]
    assert grade["bits"] == pytest.approx([x / math.log(2) for x in (15, 18, 21)])
    summary = TASK.summary([grade, {**grade, "right": [True, True, True]}], Setting(language_model()))
    assert summary["accuracy"] == pytest.approx(5 / 6) and summary["standard_error"] == pytest.approx(1 / 6)
    assert summary["first"] == 1 and summary["last"] == 1 and summary["chance"] == 0.1
    assert summary["bits_per_value"] == pytest.approx(18 / math.log(2))
    assert summary["bpb"] == pytest.approx(nats.mean() / math.log(2))
    assert summary["trunk_calls_per_byte"] == pytest.approx(7 / 22)


def test_numbers_are_those_of_the_score(tmp_path):
    lm = language_model()
    (answer,) = evaluate.evaluate([TASK], Setting(lm, folder=tmp_path))
    documents = TASK.items()
    places = Pairs(pairs=3, questions=3, distance=4, seed=7).answers
    bits = [-lm.score(item.requests[0].text)[places] for item in documents]
    assert answer["results"]["bits_per_value"] == pytest.approx(np.mean(bits), abs=1e-5)
    assert answer["results"]["items"] == 5
    assert answer["protocol"]["task"]["document"] == documents[0].requests[0].text.decode()


def test_tokens_that_are_digits_are_graded_and_others_are_refused():
    lm = test_tokens.language_model()
    numbers, places = TASK.run(Setting(lm)), Pairs(pairs=3, questions=3, distance=4, seed=7).answers
    bits = [-lm.score(item.requests[0].text)[places] for item in TASK.items()]
    assert (np.array(bits) > 0).all() and numbers["bits_per_value"] == pytest.approx(np.mean(bits), abs=1e-5)
    # Tokens of two bytes: some digits stand beside a space, others beside their letter.
    item, ends = TASK.items()[0], np.arange(22) % 2 == 1
    with pytest.raises(UserError, match="recall asks for digits, and the tokens of this model hold some"):
        TASK.grade(item, [Passed(np.zeros(22), np.ones(22, bool), ends, 5, 2)])


def test_options_come_by_name():
    (task,) = names.parse("recall", ["recall.pairs=9", "recall.questions=2", "recall.distance=100"])
    assert task == Recall(pairs=9, questions=2, distance=100)


@pytest.mark.parametrize(
    "task, message",
    [
        (Recall(source="letters.txt"), "draws its own documents"),
        (Recall(documents=0), "recall.documents = 0 must lie between"),
        (Recall(questions=0), "questions = 0 must lie between"),
        (Recall(pairs=40), "pairs = 40 must lie between 1 and 26"),
    ],
)
def test_bad_options_are_told(task, message):
    with pytest.raises(UserError, match=message):
        task.protocol()
