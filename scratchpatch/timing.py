"""How long calls take, measured in turns, so that a machine that slows down slows all of them. Free of JAX."""

import dataclasses
import functools
import statistics
import time
from collections.abc import Callable

# A median of fewer turns says little; more turns say nothing new.
_FEWEST_TURNS, _MOST_TURNS = 5, 200


@dataclasses.dataclass(frozen=True)
class Times:
    """Seconds per call: name -> one number for every turn."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        return statistics.median(self.seconds[name])

    def best(self, name: str) -> float:
        return min(self.seconds[name])

    def ratio(self, slower: str, faster: str) -> float:
        """How many times as long `slower` takes as `faster`: the median over turns of the ratio within one."""
        pairs = zip(self.seconds[slower], self.seconds[faster], strict=True)
        return statistics.median(a / b for a, b in pairs)


def take_turns(calls: dict[str, Callable[[], object]], seconds: float) -> Times:
    """Time calls in turns, ABAB..., for about `seconds` altogether; the first call of each is not counted. A call must
    return only when its work is done.
    """
    return turns({name: functools.partial(_timed, call) for name, call in calls.items()}, seconds)


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def turns(calls: dict[str, Callable[[], float]], seconds: float) -> Times:
    """As `take_turns`, of calls that return their own seconds: for some work, such as a byte, of the whole call."""
    for call in calls.values():
        call()
    began, times = time.perf_counter(), {name: [] for name in calls}
    for turn in range(_MOST_TURNS):
        if turn >= _FEWEST_TURNS and time.perf_counter() - began > seconds:
            break
        for name, call in calls.items():
            times[name].append(call())
    return Times(times)
