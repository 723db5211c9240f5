"""What a compiled program communicates and holds, read from XLA's own text of it.

Bytes are those that one chip sends over the wire: of n chips, a gather or scatter moves (n - 1) / n of the whole, an
all-reduce twice that, a permutation all of its operand.
"""

import dataclasses
import math
import re
from collections import defaultdict
from typing import NamedTuple

import numpy as np

ITEM_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
ITEM_BYTES |= {"f64": 8, "s64": 8, "u64": 8}
_KINDS = set("all-gather all-reduce reduce-scatter all-to-all ragged-all-to-all collective-permute send".split())
_SHAPE = re.compile(r"([a-z]+[0-9]*)\[([0-9,]*)\]")
_HEAD = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLS = "calls|body|to_apply|called_computations|branch_computations"
_CALLED = re.compile(rf"(?:{_CALLS})=\{{?(%[\w.\-]+(?:, ?%[\w.\-]+)*)\}}?")
_OPERATION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = ")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a step. kind: see `_KINDS`. axes: mesh axes whose devices take part, joined by '+'. shapes: of
    the whole array (gathered, or before it is scattered), without axes of size 1. types: of their elements, in XLA's
    words. bytes: what one chip sends each time. times: per step. operation: the place in our code, in JAX's words.
    """

    kind: str
    axes: str
    shapes: tuple[tuple[int, ...], ...]
    types: tuple[str, ...]
    bytes: float
    times: int
    operation: str


class Line(NamedTuple):
    """One operation of a computation; text: the whole line."""

    name: str
    type: str
    opcode: str
    text: str


def collectives(text: str, mesh: dict[str, int]) -> list[Collective]:
    """The collectives of a program of optimised HLO; mesh: axis to size, in the order of the devices."""
    computations, entry = parse(text)
    found: list[Collective] = []
    _walk(computations, entry, 1, mesh, found, set())
    return found


def totals(found: list[Collective]) -> dict[str, dict[str, float]]:
    """Kind to axes to bytes that one chip sends per step."""
    result: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for c in found:
        result[c.kind][c.axes] += c.bytes * c.times
    return {kind: dict(by_axes) for kind, by_axes in sorted(result.items())}


def memory(assignment: str) -> dict[str, int]:
    """Bytes of a device's main memory by XLA's buffer assignment: 'parameter' (state and batch) and 'temporary'."""
    sizes = {"parameter": 0, "temporary": 0}
    for line in assignment.splitlines():
        match = re.match(r"allocation \d+: size (\d+)(?:, color (\d+))?, page \d+, (\w[\w-]*)", line)
        if match and (match[2] or "0") == "0":
            sizes["parameter" if match[3] == "parameter" else "temporary"] += int(match[1])
    return sizes


def parse(text: str) -> tuple[dict[str, list[Line]], str]:
    """(computation to its operations, the name of the entry computation)."""
    computations: dict[str, list[Line]] = {}
    entry, name = "", None
    for line in text.splitlines():
        if name is None:
            if head := _HEAD.match(line):
                name = head[1]
                computations[name] = []
                entry = name if line.startswith("ENTRY") else entry
        elif line == "}":
            name = None
        elif operation := _OPERATION.match(line):
            rest = line[operation.end() :]
            end = _closing(rest) if rest.startswith("(") else rest.find(" ")
            opcode = rest[end:].lstrip()
            computations[name].append(Line(operation[1], rest[:end], opcode[: opcode.find("(")], line))
    return computations, entry


def operands(line: Line) -> list[str]:
    """The names of what an operation reads."""
    rest = line.text[line.text.index(line.opcode + "(", line.text.index(line.type) + len(line.type)) :]
    rest = rest[len(line.opcode) :]
    return re.findall(r"%([\w.\-]+)", rest[: _closing(rest)])


def called(line: Line) -> dict[str, list[str]]:
    """The computations that an operation calls, by the word that XLA has for how."""
    words = re.findall(r"(\w+)=\{?(%[\w.\-]+(?:, ?%[\w.\-]+)*)\}?", line.text)
    return {word: re.findall(r"%([\w.\-]+)", names) for word, names in words}


def _closing(text: str) -> int:
    """The place after the parenthesis that closes the first one."""
    depth = 0
    for i, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return i + 1
    return len(text)


def _walk(computations, name: str, times: int, mesh, found: list[Collective], chains: set[str]) -> None:
    """Append the collectives of a computation, and of all that it calls, to `found`. chains: those met so far. An
    asynchronous all-gather is spread over fusions that each repeat it: a chain is one.
    """
    for line in computations.get(name, ()):
        kind = line.opcode.removesuffix("-start")
        if kind in _KINDS:
            chain = re.search(r'chain_id="(\w+)"', line.text)
            if chain is None or chain[1] not in chains:
                chains |= {chain[1]} if chain else set()
                found.append(_collective(kind, line, name, times, mesh))
        elif line.opcode == "while":
            body = re.search(r"body=%([\w.\-]+)", line.text)[1]
            _walk(computations, body, times * trips(computations, line), mesh, found, set())
        elif not line.opcode.startswith(("reduce", "scatter", "sort", "select-and-scatter", "map")):
            for names in _CALLED.findall(line.text):
                for called in re.findall(r"%([\w.\-]+)", names):
                    _walk(computations, called, times, mesh, found, chains)


def trips(computations, line: Line) -> int:
    """How often a loop turns; 1 where the program decides (no such loop of ours communicates)."""
    if count := re.search(r'"known_trip_count":\{"n":"(\d+)"', line.text):
        return int(count[1])
    condition = re.search(r"condition=%([\w.\-]+)", line.text)[1]
    constants = [inner.text for inner in computations.get(condition, ()) if inner.opcode == "constant"]
    return max((int(m[1]) for text in constants if (m := re.search(r"constant\((\d+)\)", text))), default=1)


def _collective(kind: str, line: Line, computation: str, times: int, mesh) -> Collective:
    shapes = [(item, tuple(int(n) for n in axes.split(",") if n)) for item, axes in _SHAPE.findall(line.type)]
    # The types of these are (operands, results, contexts), or begin with the operand.
    if line.opcode == "all-gather-start":
        shapes = shapes[len(shapes) // 2 :]
    elif line.opcode == "collective-permute-start" or kind == "send":
        shapes = shapes[:1]
    shapes = [(item, axes) for item, axes in shapes if item in ITEM_BYTES]
    size = float(sum(ITEM_BYTES[item] * math.prod(axes) for item, axes in shapes))
    group, axes = _group(kind, line.text, mesh)
    # TPUs spell a reduce-scatter as a fusion of an all-reduce with the slice that stays.
    if kind == "all-reduce" and "all-reduce-scatter" in computation:
        kind = "reduce-scatter"
    elif kind == "reduce-scatter":
        size *= group
    share = (group - 1) / group if group else 0.0
    sent = size * {"all-reduce": 2 * share, "collective-permute": 1.0, "send": 1.0}.get(kind, share)
    operation = re.search(r'op_name="([^"]*)"', line.text)
    plain = tuple(tuple(n for n in shape if n != 1) for _, shape in shapes)
    types = tuple(item for item, _ in shapes)
    return Collective(kind, axes, plain, types, sent, times, operation[1] if operation else "")


def _group(kind: str, text: str, mesh: dict[str, int]) -> tuple[int, str]:
    """How many devices take part together, and the mesh axes along which they differ."""
    if kind == "send":
        return 2, "slice"
    devices = math.prod(mesh.values())
    if kind == "collective-permute":
        pairs = re.search(r"source_target_pairs=\{((?:\{\d+,\d+\},?)+)\}", text)
        groups = [_numbers(pair) for pair in re.findall(r"\{(\d+,\d+)\}", pairs[1])] if pairs else []
    else:
        groups = _replica_groups(text, devices)
    if not groups:
        return devices, "+".join(axis for axis, size in mesh.items() if size > 1) or "none"
    places = [np.stack(np.unravel_index(np.array(group), tuple(mesh.values()))) for group in groups]
    differs = np.any([(place != place[:, :1]).any(axis=1) for place in places], axis=0)
    return len(groups[0]), "+".join(axis for axis, moves in zip(mesh, differs, strict=True) if moves) or "none"


def _replica_groups(text: str, devices: int) -> list[tuple[int, ...]]:
    """The devices of each group, in each of XLA's three spellings; without one, all of them."""
    if match := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", text):
        sizes = {axis: int(n) for axis, n in re.findall(r"'(\w+)'=(\d+)", match[1])}
        chosen = re.findall(r"'(\w+)'", match[2])
        ids = np.arange(math.prod(sizes.values())).reshape(list(sizes.values()))
        order = [i for i, axis in enumerate(sizes) if axis not in chosen] + [list(sizes).index(axis) for axis in chosen]
        return [tuple(g) for g in ids.transpose(order).reshape(-1, math.prod(sizes[a] for a in chosen)).tolist()]
    if match := re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", text):
        ids = np.arange(math.prod(_numbers(match[2]))).reshape(_numbers(match[2]))
        if match[3]:
            ids = ids.transpose(_numbers(match[3]))
        return [tuple(g) for g in ids.reshape(_numbers(match[1])).tolist()]
    if match := re.search(r"replica_groups=\{((?:\{[\d,]+\},?)+)\}", text):
        return [_numbers(group) for group in re.findall(r"\{([\d,]+)\}", match[1])]
    return [tuple(range(devices))]


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(","))
