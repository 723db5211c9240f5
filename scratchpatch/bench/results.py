"""What a benchmark measured: numbers by side, targets met or not, notes; on which machine."""

import dataclasses
import math
import os
import platform
from pathlib import Path

import jax

from scratchpatch import output, platforms

# Sides that stand beside each other in a table; of more, each is a line.
_WIDEST = 6


@dataclasses.dataclass(frozen=True)
class Result:
    """numbers: side -> measure -> value, the unit in the measure's name. skipped: why nothing was measured."""

    title: str
    numbers: dict[str, dict[str, float | str | None]] = dataclasses.field(default_factory=dict)
    targets: tuple[dict, ...] = ()
    notes: tuple[str, ...] = ()
    skipped: str = ""

    def as_dict(self) -> dict:
        """The fields in what JSON has."""
        return output.plain({name: x for name, x in vars(self).items() if name != "skipped" or x})


def at_least(name: str, value: float, bound: float) -> dict:
    """A target: a value and the bound that it should reach."""
    return {"name": name, "value": value, "at_least": bound, "met": bool(value >= bound)}


def at_most(name: str, value: float, bound: float) -> dict:
    """A target: a value and the bound that it should keep."""
    return {"name": name, "value": value, "at_most": bound, "met": bool(value <= bound)}


def machine() -> dict:
    """Processor, cores and load average (others' work slows every number), JAX and its device."""
    device = jax.devices()[0]
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [f"model name: {platform.processor() or 'unknown'}"]
    return {
        "processor": next((x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")), "unknown"),
        "cores": platforms.cores(),
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "system": f"{platform.system()} {platform.machine()}", "python": platform.python_version(),
        "jax": jax.__version__, "device": f"{jax.device_count()} x {device.device_kind} ({device.platform})",
    }


def text(measured: dict) -> str:
    """What `bench.run` returned as people read it: for each benchmark a table, measures down and sides across."""
    lines = [", ".join(f"{name.replace('_', ' ')} {value}" for name, value in measured["machine"].items())]
    for name, result in measured.items():
        if name != "machine":
            lines += ["", f"{name}: {result['title']}"]
            lines += [f"  skipped: {result['skipped']}"] if "skipped" in result else _body(result)
    return "\n".join(lines)


def _body(result: dict) -> list[str]:
    lines, numbers = [], result["numbers"]
    measures = dict.fromkeys(measure for values in numbers.values() for measure in values)
    rows = [["", *numbers]]
    rows += [[m.replace("_", " "), *(_cell(values.get(m)) for values in numbers.values())] for m in measures]
    if len(numbers) > _WIDEST:
        rows = [list(row) for row in zip(*rows, strict=True)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for measure, *values in rows:
        cells = [value.rjust(width) for value, width in zip(values, widths[1:], strict=True)]
        lines.append("  " + "  ".join([measure.ljust(widths[0]), *cells]))
    for target in result["targets"]:
        bound = "at_least" if "at_least" in target else "at_most"
        wanted = f"{bound.replace('_', ' ')} {_cell(target[bound])}"
        mark = "\u2713" if target["met"] else "\u2717"
        lines.append(f"  {mark} {target['name']}: {_cell(target['value'])} (wanted {wanted})")
    return lines + [f"  {note}" for note in result["notes"]]


def _cell(value) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{round(value):,}"
    # Three figures, and no exponent.
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"
