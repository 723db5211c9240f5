"""Seconds of calls that take turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

# A median of fewer turns says little; more than this says nothing new.
_FEWEST, _MOST = 5, 200


class Times:
    """Seconds per call: name -> one number for every turn."""

    def __init__(self, seconds: dict[str, list[float]]):
        self.seconds = seconds

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def best(self, name: str) -> float:
        return min(self.seconds[name])

    def ratio(self, slower: str, faster: str) -> float:
        """How many times as long `slower` takes as `faster`: the median over turns of the ratio within one."""
        pairs = zip(self.seconds[slower], self.seconds[faster], strict=True)
        return statistics.median(a / b for a, b in pairs)


def take_turns(calls: dict[str, Callable[[], object]], seconds: float) -> Times:
    """Time calls in turns, ABAB..., for about `seconds` altogether; the first call of each is not counted.

    A call must return only when its work is done.
    """
    for call in calls.values():
        call()
    began, times = time.perf_counter(), {name: [] for name in calls}
    for turn in range(_MOST):
        if turn >= _FEWEST and time.perf_counter() - began > seconds:
            break
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return Times(times)
