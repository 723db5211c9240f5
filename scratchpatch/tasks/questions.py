"""Questions of several answers, and texts to continue, as benchmarks have them on disk: JSON objects, one on each line.

A line is told by the names of its fields, of which there may be more:

    query, choices, gold                        as they are (gold: the index of the right choice)
    context, continuation                       a text, and how it goes on (LAMBADA)
    question, choices, answer                   MMLU; answer: an index or a letter; subject: the group
    question, choices, answerKey                ARC; choices: {text, label}
    question_stem, choices, answerKey           OpenBookQA
    question, answerKey                         both as published, where question is {stem, choices: [{text, label}]}
    passage, question, answer (or label)        BoolQ; the answers are no and yes
    ctx, endings, label                         HellaSwag; activity_label stands before ctx
    sentence, option1, option2, answer          WinoGrande; an option stands for _, and what follows it is scored
    goal, sol1, sol2, label                     PIQA
"""

import dataclasses
import re
import string
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict

import msgspec

from scratchpatch.errors import UserError
from scratchpatch.tasks import json_lines


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, or a text to continue.

    Attributes:
      prompt: what stands before an answer. It ends without white space, unless there is an `ending`.
      answers: without white space around them; a text to continue has one.
      gold: the index of the right answer.
      ending: what follows each answer, and is scored in its place; "" where the answers themselves are scored.
      asks: whether the prompt asks, so that "Answer:" follows it; elsewhere an answer continues it.
      group: what accuracies are counted in by themselves; "" where there are no groups.
      line: where it stands in its file.
    """

    prompt: str
    answers: tuple[str, ...]
    gold: int
    ending: str = ""
    asks: bool = False
    group: str = ""
    line: int = 0

    @property
    def identity(self) -> tuple[str, ...]:
        """The same for two spellings of one question."""
        return self.prompt, self.ending, *sorted(self.answers)


def read(path: str) -> list[Question]:
    """The questions of a file. Raises UserError, which names file and line, for one that cannot be used; and where
    there is none, or some are texts to continue and some are not.
    """
    questions = []
    for number, row in json_lines.read(path):
        try:
            questions.append(_question(row, number))
        except (UserError, msgspec.ValidationError) as error:
            raise UserError(f"{path}, line {number}: {_reason(error)}") from None
        if (len(questions[0].answers) == 1) != (len(questions[-1].answers) == 1):
            what = "texts to continue and questions of several answers are in one file"
            raise UserError(f"{path}, line {number}: {what}: give each a file of its own")
    return questions


def _question(row: dict[str, Any], number: int) -> Question:
    form = _form(row)
    value = msgspec.convert({name: row[name] for name in form.shape.__annotations__ if name in row}, form.shape)
    made = dataclasses.replace(form.make(value), line=number)
    prompt = made.prompt if made.ending else made.prompt.rstrip()
    answers = tuple(answer.strip() for answer in made.answers)
    if not (prompt or made.ending).strip():
        raise UserError("the question is empty")
    if len(answers) < form.fewest:
        raise UserError(f"it has {len(answers)} choices, wanted at least {form.fewest}")
    if "" in answers:
        raise UserError(f"choice {answers.index('')} is empty (the first is 0)")
    if not 0 <= made.gold < len(answers):
        raise UserError(f"the right answer is number {made.gold} of {len(answers)} choices (the first is 0)")
    for text in (prompt, made.ending, *answers):
        try:
            text.encode()
        except UnicodeEncodeError:
            raise UserError("it holds half of a surrogate pair, which is no text") from None
    asks = made.asks or not made.ending and any(line.startswith("Question:") for line in prompt.splitlines())
    return dataclasses.replace(made, prompt=prompt, answers=answers, asks=asks)


def _reason(error: Exception) -> str:
    """A UserError's words, or msgspec's: the field first."""
    reason, _, where = str(error).replace("`", "").partition(" - at ")
    return f"{where.removeprefix('$.')}: {reason}" if where else reason


class _Query(TypedDict):
    query: str
    choices: list[str]
    gold: int


class _Continued(TypedDict):
    context: str
    continuation: str


class _Mmlu(TypedDict):
    question: str
    choices: list[str]
    answer: int | str
    subject: NotRequired[str]


class _Labelled(TypedDict):
    text: list[str]
    label: list[str]


class _Arc(TypedDict):
    question: str
    choices: _Labelled
    answerKey: str


class _OpenBook(TypedDict):
    question_stem: str
    choices: _Labelled
    answerKey: str


class _Choice(TypedDict):
    text: str
    label: str


class _Stem(TypedDict):
    stem: str
    choices: list[_Choice]


class _Published(TypedDict):
    question: _Stem
    answerKey: str


class _BoolQ(TypedDict):
    passage: str
    question: str
    answer: bool


class _SuperGlueBoolQ(TypedDict):
    passage: str
    question: str
    label: int


class _HellaSwag(TypedDict):
    ctx: str
    endings: list[str]
    label: int | str
    activity_label: NotRequired[str]


class _WinoGrande(TypedDict):
    sentence: str
    option1: str
    option2: str
    answer: int | str


class _Piqa(TypedDict):
    goal: str
    sol1: str
    sol2: str
    label: int | str


def _mmlu(row: _Mmlu) -> Question:
    made = _asked(row["question"], row["choices"], _index(row["answer"], letters=True))
    return dataclasses.replace(made, group=row.get("subject", ""))


def _labelled(text: str, answers: Sequence[str], labels: Sequence[str], key: str) -> Question:
    if len(answers) != len(labels):
        raise UserError(f"it has {len(answers)} choices and {len(labels)} labels")
    if key not in labels:
        raise UserError(f"the right answer is {key!r}, and the choices are {', '.join(labels)}")
    return _asked(text, answers, labels.index(key))


def _published(row: _Published) -> Question:
    choices = row["question"]["choices"]
    texts, labels = [choice["text"] for choice in choices], [choice["label"] for choice in choices]
    return _labelled(row["question"]["stem"], texts, labels, row["answerKey"])


def _boolq(row: dict[str, Any]) -> Question:
    asked = row["question"].strip().rstrip("?")
    prompt = f"Passage: {row['passage'].strip()}\nQuestion: {asked}?"
    return Question(prompt, ("no", "yes"), int(row.get("answer", row.get("label"))), asks=True)


def _hellaswag(row: _HellaSwag) -> Question:
    label = f"{row['activity_label']}: " if "activity_label" in row else ""
    endings = tuple(map(_without_marks, row["endings"]))
    return Question(label + _without_marks(row["ctx"]), endings, _index(row["label"]))


def _without_marks(text: str) -> str:
    """HellaSwag's text: [title] begins a sentence, and other marks such as [step] say nothing."""
    text = re.sub(r"\[[^\]]*\]", "", text.replace(" [title]", ". "))
    return re.sub(" +", " ", text).strip()


def _winogrande(row: _WinoGrande) -> Question:
    before, gap, after = row["sentence"].partition("_")
    if not gap or not after.strip():
        raise UserError("sentence: wanted one with _ in the place of the answer, and more after it")
    return Question(before, (row["option1"], row["option2"]), _index(row["answer"]) - 1, ending=after.rstrip())


def _asked(text: str, answers: Sequence[str], gold: int) -> Question:
    return Question(f"Question: {text.strip()}", tuple(answers), gold, asks=True)


def _index(value: int | str, letters: bool = False) -> int:
    """The index that a field holds, which some files write as text, and some as a letter."""
    text = str(value).strip()
    if letters and len(text) == 1 and text in string.ascii_uppercase:
        return string.ascii_uppercase.index(text)
    try:
        return int(text)
    except ValueError:
        raise UserError(f"the right answer is {text!r}, wanted a number{' or a letter' * letters}") from None


class _Form(NamedTuple):
    """shape: the fields, and their types. make: the question. fewest: answers that there must be."""

    shape: Any
    make: Callable[[Any], Question]
    fewest: int = 2


_FORMS = (
    _Form(_Query, lambda row: Question(row["query"], tuple(row["choices"]), row["gold"])),
    _Form(_Continued, lambda row: Question(row["context"], (row["continuation"],), 0), 1),
    _Form(_BoolQ, _boolq),
    _Form(_SuperGlueBoolQ, _boolq),
    _Form(_Mmlu, _mmlu),
    _Form(_Arc, lambda row: _labelled(row["question"], *_pair(row["choices"]), row["answerKey"])),
    _Form(_OpenBook, lambda row: _labelled(row["question_stem"], *_pair(row["choices"]), row["answerKey"])),
    _Form(_Published, _published),
    _Form(_HellaSwag, _hellaswag),
    _Form(_WinoGrande, _winogrande),
    _Form(_Piqa, lambda row: _asked(row["goal"], (row["sol1"], row["sol2"]), _index(row["label"]))),
)


def _pair(choices: _Labelled) -> tuple[list[str], list[str]]:
    return choices["text"], choices["label"]


def _form(row: dict[str, Any]) -> _Form:
    """The first form whose fields a line has. Raises UserError that names what it lacks of the nearest one."""

    def share(form: _Form) -> float:
        names = form.shape.__required_keys__
        return len(names & row.keys()) / len(names)

    nearest = max(_FORMS, key=share)
    names = [name for name in nearest.shape.__annotations__ if name in nearest.shape.__required_keys__]
    if lacking := [name for name in names if name not in row]:
        has = ", ".join(sorted(row)) or "none"
        raise UserError(f"it lacks {', '.join(lacking)} (wanted {', '.join(names)}; its fields are {has})")
    return nearest
