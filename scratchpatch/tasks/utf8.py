"""Is what the model writes UTF-8?"""

import codecs
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, ClassVar

from scratchpatch.errors import UserError
from scratchpatch.inference.options import Options
from scratchpatch.tasks import texts
from scratchpatch.tasks.items import Item, ItemTask, spaced
from scratchpatch.tasks.requests import Generation
from scratchpatch.tasks.task import Setting


@dataclasses.dataclass(frozen=True)
class Utf8(ItemTask):
    """How much of what the model writes is UTF-8, where nothing holds it to that.

    --task=utf8 writes documents from their beginning; --task=utf8:FILE (a glob, or a SPEC, as of bpb) goes on from the
    beginnings of documents, evenly spaced over all. A character that the last byte cuts is no error, unless the model
    ended the document there.

      utf8.samples       how many outputs are written
      utf8.bytes         of at most so many bytes each
      utf8.temperature   of the draws; nothing else shapes them
      utf8.seed          of the first output; the k-th has the seed + k
      utf8.prompt_bytes  of a document that is gone on from, cut between characters
    """

    name: ClassVar[str] = "utf8"
    samples: int = 64
    bytes: int = 256
    temperature: float = 1.0
    seed: int = 0
    prompt_bytes: int = 64

    def protocol(self) -> dict[str, Any]:
        for field in ("samples", "bytes", "prompt_bytes"):
            if getattr(self, field) < 1:
                raise UserError(f"utf8.{field} = {getattr(self, field)} must be 1 or more")
        self._options(0).check()
        about = {field: getattr(self, field) for field in ("samples", "bytes", "temperature", "seed")}
        if self.source:
            about |= {"prompt_bytes": self.prompt_bytes, "checksum": texts.checksum(self._texts)}
        return about

    @functools.cached_property
    def _texts(self) -> list[texts.Text]:
        return texts.read(self.source, "document")

    def items(self) -> Sequence[Item]:
        prompts = [b""] * self.samples
        if self.source:
            chosen = spaced(self._texts, self.samples)
            prompts = [texts.beginning(text.data, self.prompt_bytes) for text in chosen]
        return [Item((Generation(prompt, self._options(k)),)) for k, prompt in enumerate(prompts)]

    def _options(self, number: int) -> Options:
        return Options(max_bytes=self.bytes, temperature=self.temperature, seed=self.seed + number)

    def grade(self, item: Item, answers: list) -> dict[str, Any]:
        (data,) = answers
        return {"bytes": len(data), "invalid": invalid_bytes(data, cut=len(data) == self.bytes)}

    def summary(self, grades: list[dict[str, Any]], setting: Setting) -> dict[str, Any]:
        written, invalid = (sum(grade[name] for grade in grades) for name in ("bytes", "invalid"))
        valid = sum(grade["invalid"] == 0 for grade in grades) / len(grades)
        return {
            "valid_outputs": valid,
            "valid_outputs_stderr": (valid * (1 - valid) / len(grades)) ** 0.5,
            "invalid_bytes_share": invalid / written if written else None,
            "invalid_bytes": invalid,
            "bytes": written,
            "bytes_per_output": written / len(grades),
        }


def invalid_bytes(data: bytes, cut: bool) -> int:
    """How many bytes belong to no well-formed character of UTF-8. cut: an open character at the end is none of them."""
    decoder = codecs.getincrementaldecoder("utf-8")("ignore")
    well_formed = decoder.decode(data).encode()
    still_open, _ = decoder.getstate()
    return len(data) - len(well_formed) - (len(still_open) if cut else 0)
