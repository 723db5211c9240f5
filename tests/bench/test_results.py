from scratchpatch.bench import results
from scratchpatch.bench.results import Result, Times


def test_targets_are_met_at_their_bound():
    assert results.at_least("x", 1.0, 1.0)["met"] and not results.at_least("x", 0.99, 1.0)["met"]
    assert results.at_most("x", 1.3, 1.3)["met"] and not results.at_most("x", 1.31, 1.3)["met"]


def test_a_table_has_measures_down_sides_across_and_marks():
    result = Result(
        "two sides",
        {"one": {"bytes_per_second": 12345.6, "share": 0.01234}, "two": {"bytes_per_second": 10.0}},
        (results.at_most("seconds", 12.0, 10.0), results.at_least("rate", 21.0, 20.0)),
        ("a note",),
    )
    assert results.text({"machine": {"cores": 2}, "train": result.as_dict()}).splitlines() == [
        "cores 2",
        "",
        "train: two sides",
        "                       one  two",
        "  bytes per second  12,346   10",
        "  share             0.0123    -",
        "  \u2717 seconds: 12 (wanted at most 10)",
        "  \u2713 rate: 21 (wanted at least 20)",
        "  a note",
    ]


def test_what_is_skipped_says_why():
    result = Result("a peer", skipped="torch not installed").as_dict()
    assert result["skipped"] == "torch not installed" and "skipped" not in Result("a peer").as_dict()
    assert "skipped: torch not installed" in results.text({"machine": {}, "peer": result})


def test_calls_take_turns_and_the_first_is_not_counted():
    called = []
    calls = {"a": lambda: called.append("a"), "b": lambda: called.append("b")}
    times = results.take_turns(calls, 0.0)
    assert "".join(called) == "ab" * (1 + len(times.seconds["a"]))
    assert len(times.seconds["a"]) == len(times.seconds["b"]) == 5


def test_a_ratio_is_the_median_of_the_ratios_of_turns():
    # Everything is ten times slower in the second turn.
    times = Times({"a": [1.0, 10.0, 1.0], "b": [2.0, 20.0, 3.0]})
    assert times.ratio("b", "a") == 2.0
    assert times.median("a") == times.best("a") == 1.0 and times.best("b") == 2.0
