"""What a run may change when it resumes, by the step from which on it holds.

A run goes on with other values from the checkpoint on that it resumes from, and what it did before stays what it was. A
later attempt that names the newest values follows the whole history, from whichever checkpoint; one with other values
drops what the history says from its step on.
"""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")
# [(first step, what holds from there on), ...], the first one of step 0.
History = list[tuple[int, T]]


def follow(known: History[T], now: T, step: int) -> History[T]:
    """The history of a run that goes on from `step` with the values `now`."""
    if known[-1][1] == now:
        return known
    changed = before(known, step)
    if not changed or changed[-1][1] != now:
        changed.append((step, now))
    return changed


def before(known: History[T], step: int) -> History[T]:
    """What the history says of the steps before `step`."""
    return [(first, values) for first, values in known if first < step]


def read(lines: list[list]) -> History:
    """As JSON has it, [[first step, values], ...], back. Raises ValueError where it is none."""
    steps = [first for first, _ in lines]
    if steps[:1] != [0] or steps != sorted(set(steps)):
        raise ValueError("its steps must begin at 0 and rise")
    return [(first, values) for first, values in lines]
