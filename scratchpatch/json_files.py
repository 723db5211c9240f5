"""JSON that others may have written, or damaged: one reader for the package. Free of JAX.

A document has a shape, given as a type that msgspec knows: a TypedDict for an object of named fields, dict[str, X],
list[X], X | None, Annotated[int, Meta(ge=0)]. Fields that a shape does not name are let through.
"""

import json
import math
from collections.abc import Callable
from typing import Annotated, Any, BinaryIO

import msgspec
import numpy as np

from scratchpatch import files

# The most bytes and the deepest nesting of any document of this package.
_MOST_BYTES, _DEEPEST = 1 << 28, 32
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]


class Malformed(ValueError):
    """A document that is no JSON, or not of its shape: says in one line what is wrong, and in which field."""


def parse(text: str | bytes, shape: Any, constants: bool = False) -> Any:
    """The value of a JSON document of a shape, see above; `constants` lets NaN and Infinity through, which JSON itself
    does not have. Raises Malformed where it is no JSON, nested too deep, or not of that shape.
    """
    try:
        value = json.loads(text, parse_constant=None if constants else _refuse)
    except RecursionError:
        raise Malformed("it is nested too deep") from None
    except UnicodeDecodeError as error:
        raise Malformed(f"it is no UTF-8 (byte {error.start})") from None
    except ValueError as error:
        raise Malformed(f"it is no JSON ({error})") from None
    if _deeper(value, _DEEPEST):
        raise Malformed(f"it is nested more than {_DEEPEST} deep")
    try:
        msgspec.convert(value, shape)
    except msgspec.ValidationError as error:
        reason, _, where = str(error).replace("`", "").partition(" - at ")
        raise Malformed(f"{where.removeprefix('$.')}: {reason}" if where else reason) from None
    return value


def read(path: Any, shape: Any, constants=False, open_read: Callable[..., BinaryIO] = files.open_regular) -> Any:
    """The value of a JSON file, see `parse`; `open_read` opens one that is not of this machine. Raises Malformed, which
    names the path, also where the file is larger than any document of this package; OSError where it cannot be read.
    """
    with open_read(path) as file:
        text = file.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise Malformed(f"{path}: it is larger than {_MOST_BYTES >> 20} MiB, which no document of this kind is")
    try:
        return parse(text, shape, constants)
    except Malformed as error:
        raise Malformed(f"{path}: {error}") from None


def seal(value: Any) -> str:
    """A checksum of a JSON value, for the document that holds it."""
    return files.digest(json.dumps(value, sort_keys=True).encode())


def plain(value: Any) -> float | int | str | bool | None:
    """A scalar (Python, numpy or JAX) as JSON has it; None for a number that is not finite. Raises TypeError or
    ValueError where it is no scalar.
    """
    if isinstance(value, (str, bool, int)) or value is None:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    array = np.asarray(value)
    if np.issubdtype(array.dtype, np.integer):
        return int(array)
    number = float(array)
    return number if math.isfinite(number) else None


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number of JSON")


def _deeper(value: Any, limit: int) -> bool:
    """Whether lists and objects are nested more than `limit` deep."""
    level = [value]
    for _ in range(limit):
        lists = [each.values() if isinstance(each, dict) else each for each in level if isinstance(each, (dict, list))]
        level = [inner for each in lists for inner in each]
    return bool(level)
