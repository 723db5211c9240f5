"""Names of TPU pods, such as v5p:8x8x8, and which smaller ones there are."""

from __future__ import annotations

import dataclasses
import itertools
import math

from scratchpatch.accounting import chips
from scratchpatch.errors import UserError

# Kind to the axes of its torus and the chips of its largest pod.
_KINDS = {"v4": (3, 4096), "v5e": (2, 256), "v5p": (3, 8960), "v6e": (2, 256), "tpu7x": (3, 9216)}
# A chip of these kinds is two devices of JAX.
_DEVICES = {"tpu7x": 2}


@dataclasses.dataclass(frozen=True)
class Topology:
    """`slices` pods of one shape."""

    kind: str
    shape: tuple[int, ...]
    slices: int = 1

    def __str__(self) -> str:
        return self.name + (f" x {self.slices} slices" if self.slices > 1 else "")

    @property
    def name(self) -> str:
        return f"{self.kind}:{'x'.join(map(str, self.shape))}"

    @property
    def chips(self) -> int:
        return math.prod(self.shape) * self.slices

    @property
    def devices(self) -> int:
        return self.chips * _DEVICES.get(self.kind, 1)

    @property
    def chip(self) -> chips.Chip:
        return chips.named(self.kind)


def parse(text: str, slices: int = 1) -> Topology:
    """The topology that a text such as v5e:4x4 or v5p:8x8x16 names. Raises UserError where it names none."""
    kind, _, shape = text.partition(":")
    if kind not in _KINDS:
        raise UserError(f"topology {text!r}: wanted KIND:SHAPE with KIND one of {', '.join(_KINDS)}, such as v5p:4x4x4")
    axes, most = _KINDS[kind]
    sizes = shape.split("x")
    if len(sizes) != axes or not all(size.isdecimal() and int(size) > 0 for size in sizes):
        example = "x".join(["4"] * axes)
        raise UserError(f"topology {text!r}: wanted {axes} sizes above 0 for {kind}, such as {kind}:{example}")
    topology = Topology(kind, tuple(map(int, sizes)), slices)
    count = math.prod(topology.shape)
    if count > most:
        raise UserError(f"topology {text!r} has {count} chips; a {kind} slice has at most {most}: use --slices")
    return topology


def pods(kind: str) -> list[Topology]:
    """Pods of a kind, smallest first, one of each number of chips: the shape nearest to a cube."""
    axes, most = _KINDS[kind]
    by_chips: dict[int, tuple[int, ...]] = {}
    # The later of two shapes of as many chips is nearer to a cube: its sizes are nearer to each other.
    for shape in sorted(itertools.combinations_with_replacement((2, 4, 8, 16, 32), axes), key=sum, reverse=True):
        if math.prod(shape) <= most:
            by_chips[math.prod(shape)] = shape
    if axes == 3:
        # The one pod with an axis of a single chip is one host.
        by_chips[4] = (2, 2, 1)
    return [Topology(kind, by_chips[count]) for count in sorted(by_chips)]
