"""Multiple choice by likelihood."""

import math

import pytest
from hypothesis import given, strategies as st

from scratchpatch.errors import UserError
from scratchpatch.tasks import choice, names
from scratchpatch.tasks.choice import Choice
from scratchpatch.tasks.questions import Question
from scratchpatch.tasks.requests import Likelihood, Likely
from scratchpatch.tasks.task import Setting
from tests.tasks.models import language_model

HOT = {"query": "Question: What is hot?", "choices": ["ice", "é"], "gold": 1}
ATE = {"query": "She ate the", "choices": ["cup", "cake", "tin"], "gold": 1}
SANG = {"query": "He sang a", "choices": ["song", "dog"], "gold": 0}
THIN = {"sentence": "It broke as the _ was thin.", "option1": "cup", "option2": "table", "answer": "1"}


def asked(task, number=0):
    """(context, continuation) of each request of an item."""
    return [(request.context.decode(), request.continuation.decode()) for request in task.items()[number].requests]


def test_an_answer_continues_a_text_or_follows_answer(file):
    task = Choice(file(HOT, ATE), space="answer_front")
    assert asked(task) == [
        ("Question: What is hot?\nAnswer:", " ice"),
        ("Question: What is hot?\nAnswer:", " é"),
        ("Answer:", " ice"),
        ("Answer:", " é"),
    ]
    assert asked(task, 1)[:3] == [("She ate the", " cup"), ("She ate the", " cake"), ("She ate the", " tin")]


def test_the_space_may_end_the_prompt(file):
    assert asked(Choice(file(ATE)))[1::3] == [("She ate the ", "cake"), ("Answer: ", "cake")]


@given(st.text("a \n:é", min_size=1), st.lists(st.text("b_ é", min_size=1), min_size=2, max_size=4), st.booleans())
def test_the_space_moves_and_nothing_else(prompt, answers, asks):
    answers = tuple(answer.strip() or "x" for answer in answers)
    question = Question(prompt.rstrip() or "q", answers, 0, asks=asks)
    for form in ("cloze", "multiple_choice"):
        ends, begins = (Choice(form=form, space=s).sheet(question, question) for s in ("prompt_end", "answer_front"))
        both = zip(ends.conditional + ends.unconditional, begins.conditional + begins.unconditional, strict=True)
        for end, begin in both:
            assert end.context + end.continuation == begin.context + begin.continuation
            assert begin.continuation == b" " + end.continuation
        assert ends.answers == begins.answers


def test_letters_are_scored_where_the_answers_are_listed(file):
    task = Choice(file(ATE), form="multiple_choice", space="answer_front")
    prompt = "She ate the\nA. cup\nB. cake\nC. tin\nAnswer:"
    assert asked(task)[:3] == [(prompt, " A"), (prompt, " B"), (prompt, " C")]


def test_what_follows_an_option_is_scored_and_asked_once_without_it(file):
    assert asked(Choice(file(THIN))) == [
        ("It broke as the cup ", "was thin."),
        ("It broke as the table ", "was thin."),
        ("Answer: ", "was thin."),
    ]
    listed = asked(Choice(file(THIN), form="multiple_choice"))[0]
    assert listed == ("It broke as the _ was thin.\nA. cup\nB. table\nAnswer: ", "A")


def test_a_text_to_continue_is_asked_once(file):
    assert asked(Choice(file({"context": "Once upon a", "continuation": "time"}))) == [("Once upon a ", "time")]


def test_examples_are_drawn_by_the_seed_and_are_never_the_question(file):
    path = file(HOT, ATE, SANG)
    task = Choice(path, shots=2, shots_from=path)
    texts = {"Question: What is hot?\nAnswer: é", "She ate the cake", "He sang a song"}
    for number, own in enumerate(("Question: What is hot?\nAnswer:", "She ate the", "He sang a")):
        first, second, prompt = asked(task, number)[0][0].split("\n\n")
        assert prompt == f"{own} "
        assert {first, second} == {text for text in texts if not text.startswith(own)}
    draws = [asked(Choice(path, shots=1, shots_from=path, seed=seed))[0][0] for seed in [*range(20), *range(20)]]
    assert len(set(draws)) == 2 and draws[:20] == draws[20:]


def test_an_example_of_another_file(file):
    task = Choice(file(ATE), shots=1, shots_from=file(THIN, name="thin"))
    assert asked(task)[0][0].startswith("It broke as the cup was thin.\n\nShe")


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"shots": 3}, "choice.shots=3 needs choice.shots_from=FILE"),
        ({"shots": 3, "shots_from": True}, "too small for choice.shots=3: it has 2 that are not the question itself"),
    ],
)
def test_shots_that_cannot_be_drawn(file, fields, said):
    path = file(HOT, ATE, SANG)
    fields = {name: path if value is True else value for name, value in fields.items()}
    with pytest.raises(UserError, match=said):
        Choice(path, **fields).protocol()


def test_files_that_cannot_be_asked(file):
    with pytest.raises(UserError, match="choice needs a file: write --task=choice:FILE"):
        Choice().protocol()
    with pytest.raises(UserError, match="line 1: 27 answers cannot be listed by letters"):
        Choice(file({**ATE, "choices": ["x"] * 27}), form="multiple_choice").protocol()
    with pytest.raises(UserError, match="line 1: 1 answers cannot be listed"):
        Choice(file({"context": "a", "continuation": "b"}), form="multiple_choice").protocol()
    shots = file({"context": "a", "continuation": "b"}, name="shots")
    with pytest.raises(UserError, match="shots, line 1: 1 answers cannot be listed"):
        Choice(file(ATE), form="multiple_choice", shots=1, shots_from=shots).protocol()


def test_the_protocol_tells_apart_what_is_asked(file):
    path = file(HOT, ATE, SANG)
    tasks = [Choice(path), Choice(path, space="answer_front"), Choice(path, form="multiple_choice")]
    tasks.append(Choice(path, shots=1, shots_from=path))
    assert len({task.protocol()["asked"] for task in tasks}) == 4
    before = Choice(path).protocol()
    file({**HOT, "gold": 0}, ATE, SANG)
    after = Choice(path).protocol()
    assert (after["asked"] == before["asked"]) and (after["right_answers"] != before["right_answers"])


def test_grades_are_of_the_answers_without_the_space(file):
    task = Choice(file(HOT), space="answer_front")
    (item,) = task.items()
    answers = [Likely(3.0, False, 4, 34), Likely(1.0, True, 3, 33), Likely(2.0, False, 4, 9), Likely(0.5, False, 3, 8)]
    assert task.grade(item, answers) == {
        "gold": 1,
        "nats": [3.0, 1.0],
        "unconditional_nats": [2.0, 0.5],
        "bytes": [3, 2],
        "characters": [3, 1],
        "scored_bytes": 3,
        "greedy": True,
        "longest": 34,
        "group": "",
    }


def test_numbers_are_those_of_score(file):
    lm = language_model()
    path = file(ATE, SANG, HOT)
    found = Choice(path).run(Setting(lm))
    right, nats, size = 0, 0.0, 0
    for row in (ATE, SANG, HOT):
        prompt = row["query"].encode() + (b"\nAnswer:" if row is HOT else b"") + b" "
        scores = [lm.score(prompt + answer.encode())[len(prompt) :].sum() for answer in row["choices"]]
        right += max(range(len(scores)), key=scores.__getitem__) == row["gold"]
        nats -= scores[row["gold"]]
        size += len(row["choices"][row["gold"]].encode())
    assert found["accuracy"]["raw"]["mean"] == pytest.approx(right / 3)
    assert found["right_answer_bpb"] == pytest.approx(nats / size, abs=1e-4)
    assert found["right_answer_nats"] == pytest.approx(nats * math.log(2) / 3, abs=1e-4)
    assert found["items"] == 3
    # The window of 32 holds the BOS and 31 bytes.
    assert found["longer_than_the_window"] == 1


def test_the_command_line_sets_its_options(file):
    (task,) = names.parse(f"choice:{file(ATE)}", ["choice.form=multiple_choice", "choice.shots=0", "choice.seed=2"])
    assert (task.form, task.shots, task.seed) == ("multiple_choice", 0, 2)
    with pytest.raises(UserError, match="choice.space=middle"):
        names.parse("choice:x", ["choice.space=middle"])


def test_alike_requests_of_an_item_are_one(file):
    (item,) = Choice(file({**ATE, "choices": ["cup", "cup", "tin"]})).items()
    assert len(item.requests) == 4
    assert isinstance(item.data, choice.Sheet) and len(item.data.conditional) == 3
    assert item.requests[0] == Likelihood(b"She ate the ", b"cup")
