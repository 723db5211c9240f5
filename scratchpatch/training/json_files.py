"""JSON files that survive a kill and a number that is not finite."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np


def replace_text(path: Path, text: str) -> None:
    """Write a file such that readers, and a kill at any moment, see the old text or the new one. Raises OSError."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def plain(value: Any) -> float | int | str | bool | None:
    """A scalar (Python, numpy or jax) as JSON has it; None for a number that is not finite.

    Raises TypeError or ValueError where it is no scalar.
    """
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    array = np.asarray(value)
    if np.issubdtype(array.dtype, np.integer):
        return int(array)
    number = float(array)
    return number if math.isfinite(number) else None
