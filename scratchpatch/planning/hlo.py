"""What a compiled program communicates and holds, read from XLA's own text of it.

A collective inside a loop counts as often as the loop turns; XLA's cost
analysis counts it once. Bytes are those that one chip sends over the wire: of n
chips, a gather or scatter moves (n - 1) / n of the whole, an all-reduce twice
that, a permutation all of its operand.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict

import numpy as np

_ITEM = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}  # fmt: skip
_KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all", "send")
_SHAPE = re.compile(r"([a-z]+[0-9]*)\[([0-9,]*)\]")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"(?:calls|body|to_apply|called_computations|branch_computations)=\{?(%[\w.\-]+(?:, ?%[\w.\-]+)*)\}?")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a step.

    kind: see `_KINDS`; axes: mesh axes whose devices take part, joined by '+';
    shapes: of the whole array (gathered, or before it is scattered), without
    axes of size 1; types: of their elements, in XLA's words; bytes: sent by one
    chip each time; times: per step.
    """

    kind: str
    axes: str
    shapes: tuple[tuple[int, ...], ...]
    types: tuple[str, ...]
    bytes: float
    times: int
    operation: str


@dataclasses.dataclass(frozen=True)
class _Line:
    name: str
    type: str
    opcode: str
    text: str


def collectives(text: str, mesh: dict[str, int]) -> list[Collective]:
    """The collectives of a program.

    Args:
      text: optimised HLO.
      mesh: axis to size, in the order of the devices.
    """
    computations, entry = _parse(text)
    found: list[Collective] = []
    _walk(computations, entry, 1, mesh, found)
    return found


def totals(found: list[Collective]) -> dict[str, dict[str, float]]:
    """Kind to axes to bytes that one chip sends per step."""
    result: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for c in found:
        result[c.kind][c.axes] += c.bytes * c.times
    return {kind: dict(by_axes) for kind, by_axes in sorted(result.items())}


def memory(assignment: str) -> dict[str, int]:
    """Bytes of a device's main memory by XLA's own buffer assignment: 'parameter' (state and batch) and 'temporary'."""
    sizes = {"parameter": 0, "temporary": 0}
    for line in assignment.splitlines():
        match = re.match(r"allocation \d+: size (\d+)(?:, color (\d+))?, page \d+, (\w[\w-]*)", line)
        if match and (match[2] or "0") == "0":
            sizes["parameter" if match[3] == "parameter" else "temporary"] += int(match[1])
    return sizes


def _parse(text: str) -> tuple[dict[str, list[_Line]], str]:
    computations: dict[str, list[_Line]] = {}
    entry, name = "", None
    for line in text.splitlines():
        if name is None:
            head = _HEAD.match(line)
            if head:
                name = head[1]
                computations[name] = []
                if line.startswith("ENTRY"):
                    entry = name
        elif line == "}":
            name = None
        elif operation := _OPERATION.match(line):
            rest = line[operation.end() :]
            end = _closing(rest) if rest.startswith("(") else rest.find(" ")
            opcode = rest[end:].lstrip()
            computations[name].append(_Line(operation[1], rest[:end], opcode[: opcode.find("(")], line))
    return computations, entry


def _closing(text: str) -> int:
    """The place after the parenthesis that closes the first one."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return i + 1
    return len(text)


def _walk(computations, name: str, times: int, mesh, found: list[Collective], seen: set | None = None) -> None:
    # An asynchronous all-gather is spread over fusions that each repeat it: one chain is one collective.
    seen = set() if seen is None else seen
    for line in computations.get(name, ()):
        kind = line.opcode.removesuffix("-start")
        if kind in _KINDS and not line.opcode.endswith("-done"):
            chain = re.search(r'chain_id="(\w+)"', line.text)
            if chain is None or chain[1] not in seen:
                seen |= {chain[1]} if chain else set()
                found.append(_collective(kind, line, name, times, mesh))
        elif line.opcode == "while":
            body = re.search(r"body=%([\w.\-]+)", line.text)[1]
            _walk(computations, body, times * _trips(computations, line), mesh, found)
        elif not line.opcode.startswith(("reduce", "scatter", "sort", "select-and-scatter", "map")):
            for group in _CALLED.findall(line.text):
                for called in re.findall(r"%([\w.\-]+)", group):
                    _walk(computations, called, times, mesh, found, seen)


def _trips(computations, line: _Line) -> int:
    """How often a loop turns; 1 where the program decides (none of ours communicates)."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', line.text)
    if known:
        return int(known[1])
    condition = re.search(r"condition=%([\w.\-]+)", line.text)[1]
    texts = [inner.text for inner in computations.get(condition, ()) if inner.opcode == "constant"]
    limits = [int(m[1]) for text in texts if (m := re.search(r"constant\((\d+)\)", text))]
    return max(limits, default=1)


def _collective(kind: str, line: _Line, computation: str, times: int, mesh) -> Collective:
    shapes = [(item, tuple(int(n) for n in dims.split(",") if n)) for item, dims in _SHAPE.findall(line.type)]
    if line.opcode in ("all-gather-start", "collective-permute-start"):
        # (operands, results, contexts)
        shapes = shapes[len(shapes) // 2 :] if line.opcode == "all-gather-start" else shapes[:1]
    if kind == "send":
        shapes = shapes[:1]
    shapes = [(item, dims) for item, dims in shapes if item in _ITEM]
    size = float(sum(_ITEM[item] * math.prod(dims) for item, dims in shapes))
    group, axes = _group(kind, line.text, mesh)
    # TPUs spell a reduce-scatter as a fusion of an all-reduce with the slice that is kept.
    if kind == "all-reduce" and "all-reduce-scatter" in computation:
        kind = "reduce-scatter"
    elif kind == "reduce-scatter":
        size *= group
    share = (group - 1) / group if group else 0.0
    moved = {"all-reduce": 2 * share, "collective-permute": 1.0, "send": 1.0}.get(kind, share)
    operation = re.search(r'op_name="([^"]*)"', line.text)
    plain = tuple(tuple(n for n in dims if n != 1) for _, dims in shapes)
    return Collective(kind, axes, plain, tuple(item for item, _ in shapes), size * moved, times, operation[1] if operation else "")


def _group(kind: str, text: str, mesh: dict[str, int]) -> tuple[int, str]:
    """How many devices take part together, and the mesh axes along which they differ."""
    if kind == "send":
        return 2, "slice"
    if kind == "collective-permute":
        pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)+)\}", text)
        groups = [tuple(map(int, p.split(","))) for p in re.findall(r"\{(\d+,\d+)\}", pairs[1])] if pairs else []
    else:
        groups = _replica_groups(text, math.prod(mesh.values()))
    moving = {axis for group in groups for axis in _differ(group, mesh)}
    size = len(groups[0]) if groups else math.prod(mesh.values())
    named = [axis for axis in mesh if axis in moving] if groups else [axis for axis, n in mesh.items() if n > 1]
    return size, "+".join(named) or "none"


def _replica_groups(text: str, devices: int) -> list[tuple[int, ...]]:
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", text):
        sizes = {axis: int(n) for axis, n in re.findall(r"'(\w+)'=(\d+)", match[1])}
        chosen = re.findall(r"'(\w+)'", match[2])
        ids = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
        order = [i for i, axis in enumerate(sizes) if axis not in chosen] + [list(sizes).index(axis) for axis in chosen]
        return [tuple(g) for g in ids.transpose(order).reshape(-1, math.prod(sizes[a] for a in chosen)).tolist()]
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        shape, source = ([int(n) for n in part.split(",")] for part in match.groups()[:2])
        ids = np.arange(math.prod(source)).reshape(source)
        if match[3]:
            ids = ids.transpose([int(n) for n in match[3].split(",")])
        return [tuple(g) for g in ids.reshape(shape).tolist()]
    if match := re.search(r"replica_groups=\{((?:\{[\d,]+\},?)+)\}", text):
        return [tuple(map(int, g.split(","))) for g in re.findall(r"\{([\d,]+)\}", match[1])]
    return [tuple(range(devices))]


def _differ(group: tuple[int, ...], mesh: dict[str, int]) -> set[str]:
    places = np.stack(np.unravel_index(np.array(group), tuple(mesh.values())))
    return {axis for axis, row in zip(mesh, places, strict=True) if (row != row[0]).any()}
