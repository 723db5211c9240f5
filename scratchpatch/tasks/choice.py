"""Multiple choice by likelihood."""

import dataclasses
import functools
import random
import string
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from scratchpatch import json_files
from scratchpatch.errors import UserError
from scratchpatch.tasks import accuracy, questions
from scratchpatch.tasks.items import Item, ItemTask, checksum
from scratchpatch.tasks.questions import Question
from scratchpatch.tasks.requests import Answer, Likelihood, Likely, Request
from scratchpatch.tasks.task import Setting

# What an answer follows where its likelihood is not to depend on the question.
_UNCONDITIONAL = "Answer:"
# How a prompt is made; braces stand for parts of a question. Between examples, and before the question, stands an
# empty line; each example is a prompt, a space and the right answer.
_TEMPLATES = {
    "cloze": "{prompt}, and where it asks (a line of it begins with Question:) a line Answer:",
    "multiple_choice": "{prompt}, a line LETTER. {answer} for each answer from A on, and a line Answer:",
}
_NORMALISATION = {
    "raw": "nats of the answer given the prompt",
    "per_byte": "the same, divided by the bytes of the answer without the space before it",
    "per_character": "the same, divided by its characters (code points)",
    "unconditional": f"nats given the prompt minus nats given {_UNCONDITIONAL!r} alone",
}


@dataclasses.dataclass(frozen=True)
class Choice(ItemTask):
    """Multiple choice by likelihood, and texts to continue, from FILE: JSON lines, plain or compressed.

    A line has the fields query, choices and gold; or context and continuation; or those that MMLU, ARC, OpenBookQA,
    BoolQ, HellaSwag, WinoGrande and PIQA are published with. The likeliest answer is chosen: by its nats, its nats per
    byte and per character, and its nats less those that it has after "Answer:" alone; the first of those that tie. A
    text to continue is right where each byte of its continuation is the likeliest.

      choice.form        cloze scores the answers; multiple_choice lists them in the prompt, and scores their letters
      choice.shots       so many examples, each with its right answer, stand before a question
      choice.shots_from  the file of examples; it may be FILE: a question is never among its own examples
      choice.seed        draws the examples, with the number of the question's line
      choice.space       prompt_end ends the prompt with the space before an answer, so that it is not scored;
                         answer_front begins the answer with it
    """

    name: ClassVar[str] = "choice"
    form: Literal["cloze", "multiple_choice"] = "cloze"
    shots: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    shots_from: str = ""
    seed: int = 0
    space: Literal["prompt_end", "answer_front"] = "prompt_end"

    def protocol(self) -> dict[str, Any]:
        return {
            "form": self.form,
            "template": _TEMPLATES[self.form],
            "shots": self.shots,
            "shots_from": self.shots_from,
            "seed": self.seed,
            "space": self.space,
            "normalisation": _NORMALISATION,
            "questions": len(self._questions),
            "right_answers": json_files.seal([[question.gold, question.group] for question in self._questions]),
            "asked": checksum(self.items()),
        }

    def items(self) -> Sequence[Item]:
        return self._items

    def grade(self, item: Item, answers: list[Answer]) -> dict[str, Any]:
        return item.data.grade(dict(zip(item.requests, answers, strict=True)))

    def summary(self, grades: list[dict[str, Any]], setting: Setting) -> dict[str, Any]:
        return {**accuracy.of(grades), "longer_than_the_window": beyond([g["longest"] for g in grades], setting)}

    @functools.cached_property
    def _items(self) -> list[Item]:
        sheets = [self.sheet(question, question) for question in self._questions]
        return [Item(sheet.requests(), sheet) for sheet in sheets]

    @functools.cached_property
    def _questions(self) -> list[Question]:
        """Of the file. Raises UserError."""
        if not self.source:
            raise UserError(f"{self.name} needs a file: write --task={self.name}:FILE")
        return self._read(self.source)

    def _read(self, path: str) -> list[Question]:
        made = questions.read(path)
        if self.form == "multiple_choice":
            for question in made:
                if not 2 <= len(question.answers) <= len(string.ascii_uppercase):
                    what = f"{len(question.answers)} answers cannot be listed by letters"
                    raise UserError(f"{path}, line {question.line}: {what}: use {self.name}.form=cloze")
        return made

    def sheet(self, question: Question, clean: Question) -> "Sheet":
        """What is asked of a question; its examples are those of `clean`, of which it may be another spelling."""
        examples = [self._prompt(each) + _right(each, self.form) for each in self._examples(clean)]
        before = "".join(f"{example}\n\n" for example in examples)
        if question.ending and self.form == "cloze":
            pairs = [(before + question.prompt + answer, question.ending) for answer in question.answers]
        else:
            prompt = before + self._prompt(question)
            pairs = [(prompt, f" {answer}") for answer in _scored(question, self.form)]
        conditional = tuple(self._request(*pair) for pair in pairs)
        unconditional = tuple(self._request(_UNCONDITIONAL, answer) for _, answer in pairs)
        if len(pairs) == 1:
            unconditional = ()
        return Sheet(conditional, unconditional, tuple(answer.strip() for _, answer in pairs), question)

    def _prompt(self, question: Question) -> str:
        if self.form == "multiple_choice":
            text = f"{question.prompt}_{question.ending}" if question.ending else question.prompt
            letters = zip(string.ascii_uppercase, question.answers, strict=False)
            return "\n".join([text, *(f"{letter}. {answer}" for letter, answer in letters), "Answer:"])
        return f"{question.prompt}\nAnswer:" if question.asks else question.prompt

    def _request(self, context: str, continuation: str) -> Likelihood:
        if self.space == "prompt_end" and continuation.startswith(" "):
            context, continuation = f"{context} ", continuation[1:]
        return Likelihood(context.encode(), continuation.encode())

    def _examples(self, question: Question) -> list[Question]:
        if not self.shots:
            return []
        drawn: list[int] = []
        own = question.identity
        if len(self._pool) - self._pool_count.get(own, 0) < self.shots:
            has = f"it has {len(self._pool) - self._pool_count.get(own, 0)} that are not the question itself"
            raise UserError(f"{self.shots_from} is too small for {self.name}.shots={self.shots}: {has}")
        # Python promises that `random()` gives the same numbers in all its versions.
        numbers = random.Random(f"{self.seed}/{question.line}")
        while len(drawn) < self.shots:
            index = int(numbers.random() * len(self._pool))
            if index not in drawn and self._pool[index].identity != own:
                drawn.append(index)
        return [self._pool[index] for index in drawn]

    @functools.cached_property
    def _pool(self) -> list[Question]:
        if not self.shots_from:
            raise UserError(
                f"{self.name}.shots={self.shots} needs {self.name}.shots_from=FILE to draw examples from; FILE may be "
                f"{self.source} itself, for a question is never among its own examples"
            )
        return self._read(self.shots_from)

    @functools.cached_property
    def _pool_count(self) -> dict[tuple[str, ...], int]:
        counts: dict[tuple[str, ...], int] = {}
        for question in self._pool:
            counts[question.identity] = counts.get(question.identity, 0) + 1
        return counts


def beyond(longest: Sequence[int], setting: Setting) -> int:
    """How many of items, whose longest requests have so many bytes or tokens, are scored by more than one window."""
    # A window holds the BOS too.
    return sum(size + 1 > setting.lm.config.data.window for size in longest)


def _scored(question: Question, form: str) -> Sequence[str]:
    return string.ascii_uppercase[: len(question.answers)] if form == "multiple_choice" else question.answers


def _right(question: Question, form: str) -> str:
    """The right answer as it follows a prompt."""
    answer = _scored(question, form)[question.gold]
    return f"{answer}{question.ending}" if question.ending and form == "cloze" else f" {answer}"


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The requests of one question: for each answer one given the prompt, and one given no question (none at all of a
    text to continue); and the answers as they are counted, in bytes and characters.
    """

    conditional: tuple[Likelihood, ...]
    unconditional: tuple[Likelihood, ...]
    answers: tuple[str, ...]
    question: Question

    def requests(self) -> tuple[Request, ...]:
        """Each once."""
        return tuple(dict.fromkeys(self.conditional + self.unconditional))

    def grade(self, answered: dict[Request, Likely]) -> dict[str, Any]:
        """What `accuracy.of` reads, of the answers to all requests."""
        right = self.conditional[self.question.gold]
        return {
            "gold": self.question.gold,
            "nats": [answered[request].nats for request in self.conditional],
            "unconditional_nats": [answered[request].nats for request in self.unconditional],
            "bytes": [len(answer.encode()) for answer in self.answers],
            "characters": [len(answer) for answer in self.answers],
            "scored_bytes": len(right.continuation),
            "greedy": answered[right].best,
            "longest": max(answered[request].read for request in self.conditional),
            "group": self.question.group,
        }
