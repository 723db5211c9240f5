from scratchpatch.bench import results
from scratchpatch.bench.results import Result


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
