"""Calls that are timed in turns."""

from scratchpatch import timing
from scratchpatch.timing import Times


def test_calls_take_turns_and_the_first_is_not_counted():
    called = []
    calls = {"a": lambda: called.append("a"), "b": lambda: called.append("b")}
    times = timing.take_turns(calls, 0.0)
    assert "".join(called) == "ab" * (1 + len(times.seconds["a"]))
    assert len(times.seconds["a"]) == len(times.seconds["b"]) == 5


def test_a_ratio_is_the_median_of_the_ratios_of_turns():
    # Everything is ten times slower in the second turn.
    times = Times({"a": [1.0, 10.0, 1.0], "b": [2.0, 20.0, 3.0]})
    assert times.ratio("b", "a") == 2.0
    assert times.median("a") == times.best("a") == 1.0 and times.best("b") == 2.0
