"""What a benchmark found: numbers by side, targets met or not, notes."""

from __future__ import annotations

import dataclasses
import math

from scratchpatch import output

Numbers = dict[str, dict[str, float | str | None]]


@dataclasses.dataclass(frozen=True)
class Target:
    """A value and the bound it should keep: at least, or at most."""

    name: str
    value: float
    bound: float
    at_least: bool

    @property
    def met(self) -> bool:
        return bool(self.value >= self.bound if self.at_least else self.value <= self.bound)

    def as_dict(self) -> dict:
        return {
            "name": self.name,
            "value": self.value,
            "at_least" if self.at_least else "at_most": self.bound,
            "met": self.met,
        }


def at_least(name: str, value: float, bound: float) -> Target:
    return Target(name, value, bound, True)


def at_most(name: str, value: float, bound: float) -> Target:
    return Target(name, value, bound, False)


@dataclasses.dataclass(frozen=True)
class Result:
    """numbers: side -> measure -> value, the unit in the measure's name. skipped: why nothing was measured."""

    title: str
    numbers: Numbers = dataclasses.field(default_factory=dict)
    targets: tuple[Target, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: str = ""

    def as_dict(self) -> dict:
        """In what JSON has."""
        found = {
            "title": self.title,
            "numbers": self.numbers,
            "targets": [target.as_dict() for target in self.targets],
            "notes": list(self.notes),
        }
        return output.plain(found | ({"skipped": self.skipped} if self.skipped else {}))


def table(result: dict) -> str:
    """Text of {"machine": ..., name: Result.as_dict(), ...}."""
    blocks = [", ".join(f"{name.replace('_', ' ')} {value}" for name, value in result["machine"].items())]
    blocks += ["\n".join(_block(name, found)) for name, found in result.items() if name != "machine"]
    return "\n\n".join(blocks)


def _block(name: str, found: dict) -> list[str]:
    lines = [f"{name}: {found['title']}"]
    if "skipped" in found:
        return [*lines, f"  skipped: {found['skipped']}"]
    lines += _matrix(found["numbers"])
    for target in found["targets"]:
        word = "at least" if "at_least" in target else "at most"
        bound = target.get("at_least", target.get("at_most"))
        mark = "\u2713" if target["met"] else "\u2717"
        lines.append(f"  {mark} {target['name']}: {_text(target['value'])} (wanted {word} {_text(bound)})")
    return lines + [f"  {note}" for note in found["notes"]]


def _matrix(numbers: Numbers) -> list[str]:
    """Measures down, sides across."""
    measures = list(dict.fromkeys(measure for values in numbers.values() for measure in values))
    rows = [["", *numbers]]
    rows += [[m.replace("_", " "), *(_text(values.get(m)) for values in numbers.values())] for m in measures]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  " + "  ".join(cell.rjust(w) if i else cell.ljust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    ]


def _text(value) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{round(value):,}"
    # Three figures, and no exponent.
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
