"""Bytes of main memory that a compiled program moves, read from XLA's own text of it.

XLA's cost analysis counts fast memory as well: a matrix that is fetched there in advance counts three times. Here an
operation counts what it reads from main memory and writes to it: an array once, the rows alone that a look-up takes
from one, and the new rows alone of an array that is changed in place.
"""

import math
import re
from collections import defaultdict

from scratchpatch.planning import hlo
from scratchpatch.planning.hlo import Line

_ARRAY = re.compile(r"([a-z]+[0-9]*)\[([0-9,]*)\](\{[^}]*\})?")
_FAST = re.compile(r"S\([1-9]\d*\)")
# What names arrays, and moves none.
_NAMING = set("parameter constant iota tuple get-tuple-element bitcast partition-id replica-id after-all".split())
_TAKES = {"gather", "dynamic-slice"}
_REPLACES = {"scatter": 2, "dynamic-update-slice": 1}  # the operand that is new


def traffic(text: str) -> float:
    """Bytes per run of a program of optimised HLO; a loop counts as often as it turns, of branches the dearest."""
    computations, entry = hlo.parse(text)
    return _of_computation(computations, entry)


def _of_computation(computations, name: str) -> float:
    lines = computations[name]
    types = {line.name: line.type for line in lines}
    total = 0.0
    for line in lines:
        called = hlo.called(line)
        if line.opcode == "while":
            total += hlo.trips(computations, line) * _of_computation(computations, called["body"][0])
        elif line.opcode == "conditional":
            branches = [name for names in called.values() for name in names]
            total += max(_of_computation(computations, branch) for branch in branches)
        elif line.opcode == "call":
            total += _of_computation(computations, called["to_apply"][0])
        elif line.opcode == "fusion":
            total += _of_fusion(computations[called["calls"][0]], line, types)
        elif line.opcode.endswith("-start"):
            # The type of these is (destination, source, ...).
            total += _size(_first(line.type)) + sum(_size(types[o]) for o in hlo.operands(line))
        elif line.opcode not in _NAMING and not line.opcode.endswith("-done"):
            total += _of_operation(line, types)
    return total


def _of_operation(line: Line, types: dict[str, str]) -> float:
    operands = hlo.operands(line)
    if line.opcode in _REPLACES:
        return 2 * _size(types[operands[_REPLACES[line.opcode]]], _fast(line.type))
    if line.opcode in _TAKES:
        return _size(line.type) + _size(line.type, _fast(types[operands[0]]))
    return _size(line.type) + sum(_size(types[operand]) for operand in operands)


def _of_fusion(fused: list[Line], line: Line, types: dict[str, str]) -> float:
    """Bytes of one fusion, by what its computation does with each operand."""
    by_name, users = {inner.name: inner for inner in fused}, defaultdict(list)
    for inner in fused:
        for operand in hlo.operands(inner):
            users[operand].append(inner)

    def uses(name: str) -> list[tuple[str, Line]]:
        return [
            use
            for user in users[name]
            for use in (uses(user.name) if user.opcode == "bitcast" else [(name, user)])
        ]

    total, outer = 0.0, hlo.operands(line)
    for inner in fused:
        if inner.opcode != "parameter":
            continue
        place, read = types[outer[int(re.search(r"parameter\((\d+)\)", inner.text)[1])]], uses(inner.name)
        firsts = {user.opcode if hlo.operands(user)[0] == name else "" for name, user in read}
        if firsts <= _TAKES and read:
            total += sum(_size(user.type, _fast(place)) for _, user in read)
        elif not (firsts <= set(_REPLACES) and read):
            total += _size(place)
    roots = [inner for inner in fused if inner.text.lstrip().startswith("ROOT")]
    if roots and roots[0].opcode == "tuple":
        roots = [by_name[name] for name in hlo.operands(roots[0])]
    for root, type_ in zip(roots, [m[0] for m in _ARRAY.finditer(line.type)], strict=True):
        while root.opcode == "bitcast":
            root = by_name[hlo.operands(root)[0]]
        if root.opcode in _REPLACES:
            new = by_name[hlo.operands(root)[_REPLACES[root.opcode]]]
            total += 2 * _size(new.type, _fast(type_))
        else:
            total += _size(type_)
    return total


def _first(type_: str) -> str:
    return _ARRAY.search(type_)[0]


def _fast(type_: str) -> bool:
    """Whether an array lies in fast memory."""
    return bool(_FAST.search(type_))


def _size(type_: str, fast: bool | None = None) -> float:
    """Bytes of the arrays of a type that lie in main memory; fast: where they lie, if the type does not say it."""
    return float(sum(
        hlo.ITEM_BYTES.get(item, 0) * math.prod(int(n) for n in axes.split(",") if n)
        for item, axes, layout in _ARRAY.findall(type_)
        if not (_fast(layout) if fast is None else fast)
    ))
