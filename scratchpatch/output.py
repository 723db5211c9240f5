"""What a verb prints on standard output: one JSON object, or a table; and how a count is written."""

import json
import math
from collections.abc import Iterator
from typing import Any


def plain(value: Any) -> Any:
    """`value` in the types that JSON has; NaN and infinities, which it lacks, become None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def as_json(values: dict[str, Any]) -> str:
    """One JSON object on one line."""
    return json.dumps(plain(values), allow_nan=False)


def as_table(values: dict[str, Any]) -> str:
    """One line per value: its dotted name, then the value; a list on its own line."""
    rows = list(_rows(plain(values), ""))
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:{width}}  {text}".rstrip() for name, text in rows)


def quantity(value: float) -> str:
    """A count in few characters: 950, 12.5k, 3.1M, 1.2G."""
    for scale, unit in ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T"), (1e15, "P")):
        text = f"{value / scale:.3g}{unit}"
        # 999.6 rounds to a thousand, which the next unit writes as 1.
        if abs(value) < 999.5 * scale:
            break
    return text


def _rows(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _rows(value, f"{prefix}{name}.")
        else:
            yield prefix + name, _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_text(v) for v in value)
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
