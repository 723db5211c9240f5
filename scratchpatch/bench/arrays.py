"""The arrays of a compiled program, from its text."""

from __future__ import annotations

import dataclasses
import math
import re

_SHAPE = re.compile(r"\b(pred|bf16|[fsu]\d+)\[(\d+(?:,\d+)*)\]")


@dataclasses.dataclass(frozen=True)
class Array:
    """Type and shape of a value, such as f32[8,512,64]."""

    kind: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        bits = 8 if self.kind == "pred" else int(self.kind.lstrip("bfsu"))
        return math.prod(self.shape) * bits // 8

    def __str__(self) -> str:
        return f"{self.kind}[{','.join(map(str, self.shape))}]"


def of(text: str) -> list[Array]:
    """Every distinct array in the text of an HLO module, largest first, those inside fusions included."""
    found = {(kind, tuple(map(int, shape.split(",")))) for kind, shape in _SHAPE.findall(text)}
    return sorted((Array(*a) for a in found), key=lambda a: (-a.bytes, a.kind, a.shape))


def squares(arrays: list[Array], length: int, widths: frozenset[int]) -> list[Array]:
    """Arrays with two axes of `length` or more, the model's own widths not counted.

    With the number of slots N of a row for `length`, that is every [L x L],
    [L x N] and [N x N]; the trunk's [N x P] has one such axis alone.
    """
    return [a for a in arrays if sum(n >= length and n not in widths for n in a.shape) >= 2]
