"""The task `recall`: does the model look up what stands far away?"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from scratchpatch.errors import UserError
from scratchpatch.tasks.items import Item, ItemTask
from scratchpatch.tasks.pairs import CHANCE, Pairs
from scratchpatch.tasks.ratios import ratio
from scratchpatch.tasks.requests import Passage, Passed
from scratchpatch.tasks.task import Setting

_MOST_DOCUMENTS = 1 << 20


@dataclasses.dataclass(frozen=True)
class Recall(ItemTask):
    """Pairs of a letter and a digit, and then the letters at random: which digit follows? Documents are drawn by a
    seed, such as "m7 y6 n4; y6 m7 y6 n4"; a digit counts as right where it is the likeliest byte, or token. Chance is
    0.1. A model that was not trained on such documents may yet learn the rule from the first answers of each.

    pairs: letters of a document. questions: how many letters are asked, each perhaps several times. distance: dots
    between the pairs and the questions. documents: how many. seed: of the documents.
    """

    name: ClassVar[str] = "recall"
    pairs: int = 6
    questions: int = 24
    distance: int = 0
    documents: int = 500
    seed: int = 0

    @property
    def _shape(self) -> Pairs:
        return Pairs(pairs=self.pairs, questions=self.questions, distance=self.distance, seed=self.seed)

    def protocol(self) -> dict[str, Any]:
        if self.source:
            raise UserError(f"recall:{self.source}: recall draws its own documents and reads no file: write recall")
        if not 1 <= self.documents <= _MOST_DOCUMENTS:
            raise UserError(f"recall.documents = {self.documents} must lie between 1 and {_MOST_DOCUMENTS}")
        options = {name: getattr(self, name) for name in ("pairs", "questions", "distance", "documents", "seed")}
        one = self._shape.documents(self.documents)[0].tobytes().decode("ascii")
        return options | {"document": one, "chance": CHANCE}

    def items(self) -> Sequence[Item]:
        return [Item((Passage(row.tobytes()),)) for row in self._shape.documents(self.documents)]

    def grade(self, item: Item, answers: list[Passed]) -> dict[str, Any]:
        """Raises UserError also where a model reads tokens that hold a value together with other bytes."""
        (passed,), places = answers, self._shape.answers
        if not passed.ends[[places - 1, places]].all():
            raise UserError(
                f"{self.label} asks for digits, and the tokens of this model hold some of them together with other "
                "bytes: use a tokenizer that cuts digits from letters and spaces, or leave it out"
            )
        return {
            "right": passed.best[places].tolist(),
            "bits": (passed.nats[places] / math.log(2)).tolist(),
            "document_bits": math.fsum(passed.nats) / math.log(2),
            "commits": passed.commits,
            "scratchpads": passed.scratchpads,
        }

    def summary(self, grades: list[dict[str, Any]], setting: Setting) -> dict[str, Any]:
        """accuracy and bits_per_value are of the questions' values, with the standard error over documents; first and
        last are the accuracies of the first and the last question of a document.
        """
        right_DQ = np.array([grade["right"] for grade in grades])
        accuracy, error = ratio(right_DQ.mean(axis=1))
        byte_count = len(grades) * self._shape.length
        return {
            "accuracy": accuracy,
            "standard_error": error,
            "chance": CHANCE,
            "first": right_DQ[:, 0].mean(),
            "last": right_DQ[:, -1].mean(),
            "bits_per_value": np.mean([grade["bits"] for grade in grades]),
            "bpb": math.fsum(grade["document_bits"] for grade in grades) / byte_count,
            "trunk_calls_per_byte": sum(g["commits"] + g["scratchpads"] for g in grades) / byte_count,
        }
