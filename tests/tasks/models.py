"""A tiny model, and a task, of the tests of tasks."""

import dataclasses
from typing import ClassVar

from scratchpatch.tasks.items import Item, ItemTask
from scratchpatch.tasks.requests import Likelihood
from tests.inference.models import WINDOW, language_model

__all__ = ["WINDOW", "Letters", "language_model"]


@dataclasses.dataclass(frozen=True)
class Letters(ItemTask):
    """How likely is each letter after a context?"""

    name: ClassVar[str] = "letters"
    count: int = 6
    letters: tuple[str, ...] = ("x",)

    def protocol(self):
        return {"count": self.count}

    def items(self):
        return [Item((Likelihood(b"a" * (9 * k), bytes([97 + k])),), 97 + k) for k in range(self.count)]

    def grade(self, item, answers):
        return {"letter": item.data, "nats": answers[0].nats}

    def summary(self, grades, setting):
        return {"letters": [grade["letter"] for grade in grades], "nats": [grade["nats"] for grade in grades]}
