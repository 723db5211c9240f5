"""Histories, by step, of what a run may change when it resumes; settings.json and data.json hold one each.

A run goes on with other values from the checkpoint on that it resumes from, and what it did before stays what it was. A
later attempt that names the newest values follows the whole history, from whichever checkpoint; one with other values
drops what the history says from its step on.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax

from scratchpatch import json_files
from scratchpatch.errors import UserError
from scratchpatch.files import replace_text

T = TypeVar("T")
# [(first step, what holds from there on), ...], beginning with step 0.
History = list[tuple[int, T]]


def follow(history: History[T], now: T, step: int) -> History[T]:
    """The history of a run that goes on from `step` with the values `now`."""
    if history[-1][1] == now:
        return history
    earlier = before(history, step)
    return earlier if earlier and earlier[-1][1] == now else [*earlier, (step, now)]


def before(history: History[T], step: int) -> History[T]:
    """What the history says of the steps before `step`."""
    return [(start, values) for start, values in history if start < step]


def parse(lines: list[list]) -> History:
    """The history that JSON has as [[first step, values], ...]. Raises ValueError where it is none."""
    steps = [start for start, _ in lines]
    if steps[:1] != [0] or steps != sorted(set(steps)):
        raise ValueError("its steps must begin at 0 and rise")
    return [(start, values) for start, values in lines]


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever is wrong with a file of the workdir into a UserError that names it and the fix."""
    try:
        yield
    except json_files.Malformed as error:  # it names the file
        raise UserError(f"cannot read {error}; restore it, or use another --workdir") from error
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"cannot read {path} ({error}); restore it, or use another --workdir") from error


def write(path: Path, document: Any) -> None:
    """Write a JSON file of the workdir; of several processes the first one writes it. Raises OSError."""
    if jax.process_index() == 0:
        replace_text(path, json.dumps(document, indent=1) + "\n")
