"""Questions, as benchmarks have them on disk."""

import json

import pytest

from scratchpatch.errors import UserError
from scratchpatch.tasks import questions
from scratchpatch.tasks.questions import Question

LABELLED = {"text": ["ice", "sun"], "label": ["A", "B"]}
PUBLISHED = [{"text": "ice", "label": "1"}, {"text": "sun", "label": "2"}]
ASKED = Question("Question: What is hot?", ("ice", "sun"), 1, asks=True, line=1)
BOOLQ = Question("Passage: It is.\nQuestion: is it?", ("no", "yes"), 1, asks=True, line=1)
FORMS = {
    "query": (
        {"query": "She ate the ", "choices": ["cup", " cake"], "gold": 1},
        Question("She ate the", ("cup", "cake"), 1, line=1),
    ),
    "query that asks": ({"query": "Question: What is hot?", "choices": ["ice", "sun"], "gold": 1}, ASKED),
    "context": ({"context": "Once upon a", "continuation": "time"}, Question("Once upon a", ("time",), 0, line=1)),
    "mmlu": (
        {"question": "What is hot?", "choices": ["ice", "sun"], "answer": 1, "subject": "physics"},
        Question("Question: What is hot?", ("ice", "sun"), 1, asks=True, group="physics", line=1),
    ),
    "mmlu with letters": ({"question": "What is hot?", "choices": ["ice", "sun"], "answer": "B"}, ASKED),
    "arc": ({"id": "x", "question": "What is hot?", "choices": LABELLED, "answerKey": "B"}, ASKED),
    "obqa": ({"question_stem": "What is hot?", "choices": LABELLED, "answerKey": "B"}, ASKED),
    "arc as published": ({"question": {"stem": "What is hot?", "choices": PUBLISHED}, "answerKey": "2"}, ASKED),
    "boolq": ({"passage": "It is.", "question": "is it", "answer": True}, BOOLQ),
    "boolq of SuperGLUE": ({"passage": "It is.", "question": "is it?", "label": 1, "idx": 0}, BOOLQ),
    "hellaswag": (
        {"activity_label": "Tea", "ctx": "Boil [title] Pour [step] it", "endings": ["x [step] y", "z"], "label": "0"},
        Question("Tea: Boil. Pour it", ("x y", "z"), 0, line=1),
    ),
    "winogrande": (
        {"sentence": "The cup broke as the _ was thin.", "option1": "cup", "option2": "table", "answer": "1"},
        Question("The cup broke as the ", ("cup", "table"), 0, ending=" was thin.", line=1),
    ),
    "piqa": ({"goal": "What is hot?", "sol1": "ice", "sol2": "sun", "label": 1}, ASKED),
}


def read(tmp_path, *rows):
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return questions.read(str(path))


@pytest.mark.parametrize("name", FORMS)
def test_forms(tmp_path, name):
    row, question = FORMS[name]
    assert read(tmp_path, row) == [question]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"query": "a", "choices": ["b", "c"]}, "lacks gold .wanted query, choices, gold; its fields are"),
        ({"query": "a", "choices": ["b", "c"], "gold": 2}, "right answer is number 2 of 2 choices"),
        ({"query": "a", "choices": ["b", "c"], "gold": -1}, "right answer is number -1"),
        ({"query": "a", "choices": ["b", " "], "gold": 0}, "choice 1 is empty"),
        ({"query": "a", "choices": ["b"], "gold": 0}, "it has 1 choices, wanted at least 2"),
        ({"query": "a", "choices": "bc", "gold": 0}, "choices: Expected array, got str"),
        ({"query": "a", "choices": ["b", 3], "gold": 0}, "choices.1.: Expected str, got int"),
        ({"query": " ", "choices": ["b", "c"], "gold": 0}, "the question is empty"),
        ({"query": "a\ud800", "choices": ["b", "c"], "gold": 0}, "half of a surrogate pair"),
        ({"context": "a", "continuation": ""}, "choice 0 is empty"),
        ({"question": "a", "choices": LABELLED, "answerKey": "E"}, "right answer is 'E', and the choices are A, B"),
        ({"question": "a", "choices": ["b", "c"], "answer": "none"}, "wanted a number or a letter"),
        ({"sentence": "no gap", "option1": "a", "option2": "b", "answer": "1"}, "sentence: wanted one with _"),
        ({"sentence": "a _ b", "option1": "a", "option2": "b", "answer": ""}, "right answer is ''"),
        ({}, "lacks .*its fields are none"),
    ],
)
def test_what_is_wrong_is_said_with_its_line(tmp_path, row, said):
    with pytest.raises(UserError, match=f"questions.jsonl, line 2: .*{said}"):
        read(tmp_path, FORMS["query"][0], row)


def test_texts_to_continue_have_files_of_their_own(tmp_path):
    with pytest.raises(UserError, match="line 3: texts to continue and questions"):
        read(tmp_path, FORMS["query"][0], FORMS["arc"][0], FORMS["context"][0])
