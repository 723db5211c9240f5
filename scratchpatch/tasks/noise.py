"""What noise costs. Legend: N items."""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np

from scratchpatch.errors import UserError
from scratchpatch.tasks import accuracy, choice, noises, texts
from scratchpatch.tasks.choice import Choice
from scratchpatch.tasks.items import Item, checksum
from scratchpatch.tasks.questions import Question
from scratchpatch.tasks.ratios import ratio
from scratchpatch.tasks.requests import Answer, Likelihood
from scratchpatch.tasks.task import Setting

_CLEAN = "clean"
Kind = Literal["ant_speak", "drop", "random_case", "repeat", "upper_case"]
Part = Literal["prompt", "completion", "both"]


@dataclasses.dataclass(frozen=True)
class Noise(Choice):
    """What noise on the characters costs: the noise of the Byte Latent Transformer on questions, or on text.

    --task=noise:FILE asks the questions of a file as choice does, and has the options of choice; accuracies stand
    beside those of the clean questions. Noise is on what the file says, not on examples, letters and "Answer:". With
    --task=noise:text:GLOB, jsonl:GLOB or another SPEC, each document's beginning is cut into halves, a prompt and a
    completion, and the numbers are bits per byte of the completion as it is asked. gap is the number less the clean
    one, with the standard error of the paired difference; mean is over all kinds and parts.

      noise.kinds  ant_speak (upper case, spaces between all characters), drop (10 % are left out), random_case (upper
                   or lower, half each), repeat (20 % are written one to four times more), upper_case; joined by +
      noise.where  prompt, completion, both; joined by +
      noise.seed   of the noise, and of choice's examples
      noise.bytes  of a document's beginning
    """

    name: ClassVar[str] = "noise"
    kinds: tuple[Kind, ...] = ("ant_speak", "drop", "random_case", "repeat", "upper_case")
    where: tuple[Part, ...] = ("prompt", "completion", "both")
    bytes: int = 1024

    def protocol(self) -> dict[str, Any]:
        noise = {"kinds": list(self.kinds), "where": list(self.where), "seed": self.seed}
        if not self._of_text:
            return {**super().protocol(), **noise, "over": "choice"}
        if self.bytes < 2:
            raise UserError(f"noise.bytes = {self.bytes} must be 2 or more, for a prompt and a completion")
        documents = texts.checksum(self._documents)
        return {**noise, "over": "text", "bytes": self.bytes, "documents": documents, "asked": checksum(self.items())}

    @property
    def _of_text(self) -> bool:
        """Whether the source is a SPEC of text, and no file of questions."""
        scheme, colon, _ = self.source.partition(":")
        return bool(colon) and scheme.isidentifier() and not self.source.startswith(f"{scheme}://")

    @functools.cached_property
    def _items(self) -> list[Item]:
        made = self._halves() if self._of_text else map(self._sheets, self._questions)
        return [_item(variants, self._of_text) for variants in made]

    def _variants(self) -> Iterator[tuple[str, Kind, Part]]:
        yield from ((f"{kind}.{part}", kind, part) for kind in self.kinds for part in self.where)

    def _sheets(self, question: Question) -> dict[str, Any]:
        """What is asked of the question and of each of its noisy spellings."""
        spellings = {name: self._noisy(question, kind, part) for name, kind, part in self._variants()}
        return {name: self.sheet(spelt, question) for name, spelt in ({_CLEAN: question} | spellings).items()}

    def _noisy(self, question: Question, kind: Kind, part: Part) -> Question:
        """The question with noise. Where an ending is scored, the answers belong to the prompt."""

        def noised(text: str, place: str) -> str:
            return noises.noised(kind, text, self.seed, f"{question.line}/{place}")

        answers = tuple(noised(answer, f"answer {k}").strip() for k, answer in enumerate(question.answers))
        if question.ending:
            prompts = {"prompt": noised(question.prompt, "prompt"), "answers": answers}
            completions = {"ending": noised(question.ending, "ending").rstrip()}
        else:
            prompts = {"prompt": noised(question.prompt, "prompt").rstrip()}
            completions = {"answers": answers}
        changes = {"prompt": prompts, "completion": completions, "both": prompts | completions}
        return dataclasses.replace(question, **changes[part])

    @functools.cached_property
    def _documents(self) -> list[texts.Text]:
        return texts.read(self.source, "document")

    def _halves(self) -> Iterator[dict[str, Likelihood]]:
        """The clean halves of each document, and the noisy ones. Bytes that are no UTF-8 stay as they are."""
        for number, document in enumerate(self._documents):
            text = texts.beginning(document.data, self.bytes).decode("utf-8", "surrogateescape")
            if len(text) < 2:
                continue
            halves = {"prompt": text[: len(text) // 2], "completion": text[len(text) // 2 :]}
            made = {_CLEAN: halves}
            for name, kind, part in self._variants():
                parts = ("prompt", "completion") if part == "both" else (part,)
                noisy = {each: noises.noised(kind, halves[each], self.seed, f"{number}/{each}") for each in parts}
                made[name] = halves | noisy
            yield {
                name: Likelihood(*(half.encode("utf-8", "surrogateescape") for half in parts.values()))
                for name, parts in made.items()
            }

    def grade(self, item: Item, answers: list[Answer]) -> dict[str, Any]:
        answered = dict(zip(item.requests, answers, strict=True))
        if not self._of_text:
            return {name: sheet.grade(answered) for name, sheet in item.data.items()}
        return {name: {"nats": answered[r].nats, "bytes": answered[r].byte_count} for name, r in item.data.items()}

    def summary(self, grades: list[dict[str, Any]], setting: Setting) -> dict[str, Any]:
        if not grades:
            raise UserError(f"{self.source} has no document of two characters or more: name another source")
        names = list(grades[0])
        if self._of_text:
            counts = {name: np.array([[g[name]["nats"], g[name]["bytes"]] for g in grades]).T for name in names}
            return {"bpb": _compared({name: _bpb(*counts_N) for name, counts_N in counts.items()})}
        clean = [grade[_CLEAN] for grade in grades]
        numbers = {"chance": accuracy.of(clean)["chance"]}
        hits = {name: [accuracy.hits(grade[name]) for grade in grades] for name in names}
        for normalisation in hits[_CLEAN][0]:
            of_variants = {name: np.array([hit[normalisation] for hit in hits[name]], float) for name in names}
            numbers[normalisation] = _compared({name: (hit.mean(), hit) for name, hit in of_variants.items()})
        longest = [max(sheet["longest"] for sheet in grade.values()) for grade in grades]
        return {**numbers, "longer_than_the_window": choice.beyond(longest, setting)}


def _item(variants: dict[str, Any], of_text: bool) -> Item:
    asked = variants.values() if of_text else [request for sheet in variants.values() for request in sheet.requests()]
    return Item(tuple(dict.fromkeys(asked)), variants)


def _bpb(nats_N: np.ndarray, bytes_N: np.ndarray) -> tuple[float, np.ndarray]:
    """Bits per byte of all documents, and each document's share in it, of which it is the mean up to the first order in
    its residuals (W. G. Cochran, Sampling Techniques, section 6.3).
    """
    bits_N = nats_N / math.log(2)
    value = float(bits_N.sum() / bytes_N.sum())
    return value, value + (bits_N - value * bytes_N) / bytes_N.mean()


def _compared(values: dict[str, tuple[float, np.ndarray]]) -> dict[str, dict[str, float | None]]:
    """Of each variant its value and what it is less the clean one, with standard errors; and the mean of all noise.

    values: of each variant its value, and the items' shares [N], of which it is the mean.
    """
    noisy = [values[name] for name in values if name != _CLEAN]
    mean = {"mean": (np.mean([value for value, _ in noisy]), np.mean([shares_N for _, shares_N in noisy], axis=0))}
    clean, clean_N = values[_CLEAN]
    return {
        name: {
            "value": float(value),
            "stderr": ratio(shares_N)[1],
            "gap": float(value - clean),
            "gap_stderr": ratio(shares_N - clean_N)[1],
        }
        for name, (value, shares_N) in (values | mean).items()
    }

