"""Bits per byte by document, source or language. Legend: N documents of a group, or pairs of documents."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from scratchpatch.errors import UserError
from scratchpatch.tasks import texts
from scratchpatch.tasks.items import Item, ItemTask
from scratchpatch.tasks.ratios import ratio
from scratchpatch.tasks.requests import Passage
from scratchpatch.tasks.task import Setting

# Groups that a premium may be held against, the first that is there.
_REFERENCES = ("src.eng", "eng", "en", "eng-US", "eng_Latn", "english", "English")
# What the store keeps of a document, beside its group.
_COUNTS = ("nats", "bytes", "characters", "sentences", "commits", "scratchpads")
_SPREAD = (
    *("bpb", "bits_per_character", "bits_per_sentence", "bytes_per_sentence", "bytes_per_patch"),
    *("trunk_calls_per_byte", "trunk_calls_per_sentence"),
)
_PREMIUMS = ("bytes", "bits", "trunk_calls")


@dataclasses.dataclass(frozen=True)
class BitsPerByte(ItemTask):
    """Bits per byte, and what the text costs, by document, source or language.

    --task=bpb:FILE, a glob, or a SPEC; FILE.jsonl holds a document per line. Of each group: bits per byte, character
    and sentence (a line that is not blank), bytes per patch, trunk calls per byte and sentence, each rate with its
    spread over the groups. Where the groups say the same in several languages, premium is what a sentence of each
    takes over one of the reference, in bytes, bits and trunk calls. Standard errors are those over documents.

      bpb.by         document, source (a file), language (the field language or lang, the name in the field path, or
                     the file's), or another field of the records
      bpb.lines      each line is a document of its own: the k-th lines of all documents are one item, so that a limit
                     keeps aligned lines together, and premiums are held over pairs
      bpb.bytes      score the first so many bytes of each document, cut between characters; 0: all
      bpb.reference  the group of the premium; empty: English, where a group is called so
    """

    name: ClassVar[str] = "bpb"
    by: str = "document"
    lines: bool = False
    bytes: int = 0
    reference: str = ""

    def protocol(self) -> dict[str, Any]:
        if self.bytes < 0:
            raise UserError(f"bpb.bytes = {self.bytes} must be 0 or more: 0 scores all bytes")
        groups = {text.group for text in self._texts}
        if self.reference and self.reference not in groups:
            some = ", ".join(itertools.islice(sorted(groups), 8))
            raise UserError(f"bpb.reference = {self.reference} is no group of {self.source}: it has {some}")
        return {
            "by": self.by,
            "lines": self.lines,
            "bytes": self.bytes,
            "reference": self.reference,
            "documents": len(self._texts),
            "checksum": texts.checksum(self._texts),
        }

    @functools.cached_property
    def _texts(self) -> list[texts.Text]:
        return texts.read(self.source, self.by)

    def items(self) -> Sequence[Item]:
        groups = [text.group for text in self._texts]
        if not self.lines:
            documents = (texts.beginning(text.data, self.bytes) for text in self._texts)
            return [_item([(group, data)]) for group, data in zip(groups, documents, strict=True)]
        lines = [[line.removesuffix(b"\r") for line in text.data.split(b"\n")] for text in self._texts]
        items = []
        for aligned in itertools.zip_longest(*lines, fillvalue=b""):
            named = zip(groups, aligned, strict=True)
            present = [(group, texts.beginning(line, self.bytes)) for group, line in named if line.strip()]
            if present:
                items.append(_item(present))
        return items

    def grade(self, item: Item, answers: list) -> dict[str, Any]:
        documents = []
        for (group, data), passed in zip(item.data, answers, strict=True):
            sentences = sum(1 for line in data.split(b"\n") if line.strip())
            counts = [math.fsum(passed.nats), len(data), texts.characters(data), sentences]
            documents.append([group, *counts, passed.commits, passed.scratchpads])
        return {"documents": documents}

    def summary(self, grades: list[dict[str, Any]], setting: Setting) -> dict[str, Any]:
        by_group: dict[str, _Group] = {}
        everything = _Group()
        for number, grade in enumerate(grades):
            for group, *counts in grade["documents"]:
                by_group.setdefault(group, _Group()).add(number, counts)
                everything.add(number, counts)
        numbers = {name: group.numbers() for name, group in by_group.items()}
        named = [self.reference] if self.reference else _REFERENCES
        reference = next((name for name in named if name in by_group), None)
        if reference is not None and len(by_group) > 1:
            for name, group in by_group.items():
                numbers[name] |= group.premiums(by_group[reference], paired=self.lines)
        return {
            **everything.numbers(),
            "by": self.by,
            "reference": reference,
            "spread": _spread(numbers) if len(numbers) > 1 else {},
            "groups": numbers,
        }


def _item(documents: list[tuple[str, bytes]]) -> Item:
    return Item(tuple(Passage(data) for _, data in documents), documents)


class _Group:
    """The documents that are counted together."""

    def __init__(self):
        self._numbers: list[int] = []
        self._counts: list[list[float]] = []

    def add(self, number: int, counts: list[float]) -> None:
        """number: of the item that the document belongs to. counts: see _COUNTS."""
        self._numbers.append(number)
        self._counts.append(counts)

    @functools.cached_property
    def _columns(self) -> dict[str, np.ndarray]:
        """float64 [N] of each count."""
        return dict(zip(_COUNTS, np.asarray(self._counts, np.float64).T, strict=True))

    def numbers(self) -> dict[str, Any]:
        counts = self._columns
        bits_N, calls_N = counts["nats"] / math.log(2), counts["commits"] + counts["scratchpads"]
        # Trunk calls and patches are of positions, as everywhere: the bytes, and the BOS of each document.
        positions = counts["bytes"].sum() + len(bits_N)
        bpb, bpb_stderr = ratio(bits_N, counts["bytes"])
        totals = {name: int(counts[name].sum()) for name in ("bytes", "characters", "sentences")}
        sentences = totals["sentences"]
        return {
            "bpb": bpb,
            "bpb_stderr": bpb_stderr,
            "documents": len(bits_N),
            **totals,
            "bits_per_character": _over(bits_N.sum(), totals["characters"]),
            "bits_per_sentence": _over(bits_N.sum(), sentences),
            "bytes_per_sentence": _over(totals["bytes"], sentences),
            "bytes_per_patch": _over(positions, counts["commits"].sum()),
            "trunk_calls_per_byte": _over(calls_N.sum(), positions),
            "trunk_calls_per_sentence": _over(calls_N.sum(), sentences),
        }

    def premiums(self, reference: "_Group", paired: bool) -> dict[str, Any]:
        """What a sentence takes over one of the reference. paired: documents of one item say the same."""
        here, there = self._by_item(), reference._by_item()
        common = [number for number in here if number in there] if paired else []
        made = {}
        for index, name in enumerate(_PREMIUMS):
            if common:
                of_pairs = (np.asarray([each[n][index] for n in common]) for each in (here, there))
                value, stderr = ratio(*of_pairs)
            else:
                value = _over(self._per_sentence(index), reference._per_sentence(index))
                stderr = None
            made |= {f"{name}_premium": value, f"{name}_premium_stderr": stderr}
        return made

    def _by_item(self) -> dict[int, np.ndarray]:
        """Item to what its documents take, in the order of _PREMIUMS: their mean, where a group says it several times.
        """
        rows: dict[int, list[np.ndarray]] = {}
        for number, row in zip(self._numbers, self._taken(), strict=True):
            rows.setdefault(number, []).append(row)
        return {number: np.mean(same, axis=0) for number, same in rows.items()}

    def _taken(self) -> np.ndarray:
        counts = self._columns
        bits_N, calls_N = counts["nats"] / math.log(2), counts["commits"] + counts["scratchpads"]
        return np.stack([counts["bytes"], bits_N, calls_N], axis=1)

    def _per_sentence(self, index: int) -> float | None:
        return _over(self._taken()[:, index].sum(), self._columns["sentences"].sum())


def _over(above: float | None, below: float | None) -> float | None:
    return float(above) / float(below) if above is not None and below else None


def _spread(numbers: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Of each rate: mean and standard deviation over the groups, and the groups at both ends."""
    spread = {}
    for rate in (*_SPREAD, *(f"{name}_premium" for name in _PREMIUMS)):
        values = {name: group[rate] for name, group in numbers.items() if group.get(rate) is not None}
        if values:
            lowest, highest = min(values, key=values.get), max(values, key=values.get)
            spread[rate] = {
                "mean": float(np.mean(list(values.values()))),
                "sd": float(np.std(list(values.values()), ddof=1)) if len(values) > 1 else None,
                "min": values[lowest],
                "lowest": lowest,
                "max": values[highest],
                "highest": highest,
            }
    return spread
