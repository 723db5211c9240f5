"""Bytes that must be computed or looked up, beside those that can be guessed, in worked answers such as GSM8K's.

Legend: n bytes of a text.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, NamedTuple

import msgspec
import numpy as np

from scratchpatch.errors import UserError
from scratchpatch.tasks import json_lines
from scratchpatch.tasks.items import Item, ItemTask, checksum
from scratchpatch.tasks.ratios import ratio
from scratchpatch.tasks.requests import Answer, Passage
from scratchpatch.tasks.task import Setting

# GSM8K (arXiv 2110.14168): `48/2 = <<48/2=24>>24 clips`, and `#### 72` at the end.
_CALCULATION = re.compile(rb"<<[^<>\n]*=([^<>=\n]+)>>")
# 24 is not repeated by 240 or 24.5.
_GOES_ON = re.compile(rb"[.,]?[0-9]")
_FINAL = re.compile(rb"####[ \t]*([^\n]*[^\s])")
KINDS = ("calculated", "copied", "final")
OTHER = "other"


class Span(NamedTuple):
    """Bytes start to end of a text; kind: one of `KINDS`."""

    kind: str
    start: int
    end: int


def spans(text: bytes) -> list[Span]:
    """Where the answers stand that are not to be guessed, in their order; no two overlap.

    calculated: what follows the last `=` inside `<<...>>`.
    copied: the same number where it is repeated right behind `>>`.
    final: what follows `####` on its line, without white space around it.
    """
    taken = []
    for match in _CALCULATION.finditer(text):
        taken.append(Span("calculated", *match.span(1)))
        result, end = match[1].strip(), match.end()
        if result and text.startswith(result, end) and not _GOES_ON.match(text, end + len(result)):
            taken.append(Span("copied", end, end + len(result)))
    taken += [Span("final", *match.span(1)) for match in _FINAL.finditer(text)]
    answers, end = [], 0
    for span in sorted(taken, key=lambda span: span.start):
        if span.start >= end:
            answers.append(span)
            end = span.end
    return answers


def whole(answers: Sequence[Span], ends: np.ndarray) -> list[Span]:
    """The spans, which are in order, each up to the end of the token that holds its last byte: what a model says of a
    token stands there. Of a token that holds two answers the first has it.

    ends: bool [n], the bytes of the text that end a token.
    """
    (places,), made, taken = np.nonzero(ends), [], 0
    for kind, start, end in answers:
        start, end = max(start, taken), int(places[np.searchsorted(places, end - 1)]) + 1
        if start < end:
            made.append(Span(kind, start, end))
            taken = end
    return made


@dataclasses.dataclass(frozen=True)
class Computed(ItemTask):
    """Accuracy and bits per byte of what must be computed or looked up rather than guessed, in worked answers.

    --task=computed:FILE of JSON lines (plain or compressed) with question and answer, as GSM8K has them, or text. Three
    kinds of answers are told: `calculated`, the result in <<48/2=24>>; `copied`, the same number right behind it; and
    `final`, what follows ####. One is right where each of its bytes is the likeliest given all the bytes before it.
    Beside them stand the bits per byte of the other bytes of the answers. Standard errors are those of documents.

      computed.separator   between question and answer
    """

    name: ClassVar[str] = "computed"
    separator: str = "\n"

    def protocol(self) -> dict[str, Any]:
        return {
            "checksum": checksum(self.items()),
            "separator": self.separator,
            "question": "read, not scored",
            "calculated": "after the last = inside <<...>>",
            "copied": "the same number right behind >>",
            "final": "what follows #### on its line",
            "right": "each byte is the likeliest, given the true bytes before it",
            "tokens": "a byte is right with its token, and an answer ends with the token that holds its last byte",
            "long_documents": "scored by windows that overlap by half",
            "standard_errors": "of documents, by the linearised variance of a ratio",
        }

    def items(self) -> Sequence[Item]:
        return self._items

    def grade(self, item: Item, answers: list[Answer]) -> dict[str, Any]:
        (passed,) = answers
        begin, answer_spans = item.data
        nats, other = passed.nats, np.arange(len(passed.nats)) >= begin
        placed = whole([Span(kind, begin + start, begin + end) for kind, start, end in answer_spans], passed.ends)
        grade = {}
        for kind in KINDS:
            own = [(span.start, span.end) for span in placed if span.kind == kind]
            for start, end in own:
                other[start:end] = False
            grade[kind] = {
                "answers": len(own),
                "right": sum(bool(passed.best[start:end].all()) for start, end in own),
                "bytes": sum(end - start for start, end in own),
                "right_bytes": sum(int(passed.best[start:end].sum()) for start, end in own),
                "nats": math.fsum(nats[n] for start, end in own for n in range(start, end)),
            }
        grade[OTHER] = {
            "bytes": int(other.sum()),
            "right_bytes": int(passed.best[other].sum()),
            "nats": math.fsum(nats[other]),
        }
        return grade

    def summary(self, grades: list[dict[str, Any]], setting: Setting) -> dict[str, Any]:
        numbers = {}
        for kind in (*KINDS, OTHER):
            sums = {name: [grade[kind][name] for grade in grades] for name in grades[0][kind]}
            if not sum(sums["bytes"]):
                continue
            bits = [nats / math.log(2) for nats in sums["nats"]]
            values = {"bpb": ratio(bits, sums["bytes"]), "byte_accuracy": ratio(sums["right_bytes"], sums["bytes"])}
            if kind != OTHER:
                values = {"accuracy": ratio(sums["right"], sums["answers"])} | values
            numbers[kind] = {name: value for name, (value, _) in values.items()}
            numbers[kind]["standard_errors"] = {name: error for name, (_, error) in values.items()}
            numbers[kind] |= {name: sum(sums[name]) for name in ("answers", "bytes") if name in sums}
        return numbers

    @functools.cached_property
    def _items(self) -> list[Item]:
        items = []
        for question, answer in read(self.source):
            before = b"" if question is None else question + self.separator.encode()
            items.append(Item((Passage(before + answer),), (len(before), spans(answer))))
        if not any(answer_spans for _, answer_spans in (item.data for item in items)):
            wanted = "wanted results inside <<...=...>>, or a last line #### RESULT"
            raise UserError(f"{self.source} has no answers that must be computed: {wanted}")
        return items


_Text = Annotated[str, msgspec.Meta(min_length=1)]


class _Answered(msgspec.Struct):
    question: _Text
    answer: _Text


class _Whole(msgspec.Struct):
    text: _Text


def read(path: str) -> list[tuple[bytes | None, bytes]]:
    """Question (None where there is a text alone) and answer of each line. Raises UserError, which names the line."""
    if not path:
        raise UserError("computed reads worked answers from a file: name it, such as --task=computed:train.jsonl.gz")
    documents = []
    for number, value in json_lines.read(path):
        shape = _Whole if "text" in value and "answer" not in value else _Answered
        try:
            document = msgspec.convert(value, shape)
            if shape is _Whole:
                documents.append((None, document.text.encode()))
            else:
                documents.append((document.question.encode(), document.answer.encode()))
        except (msgspec.ValidationError, UnicodeEncodeError) as error:
            raise UserError(f"{path}, line {number}: {str(error).replace('`', '')}") from None
    return documents
