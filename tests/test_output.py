"""Printed results, escaped texts, and log lines."""

import json
import logging
import os
import subprocess
import sys

import numpy as np

from scratchpatch import output


def test_json_has_no_nan_and_takes_numpy_values():
    text = output.as_json(
        {"a": float("nan"), "b": [float("-inf"), np.float32(0.5)], "c": np.arange(3), 4: (True, None)}
    )
    assert json.loads(text) == {"a": None, "b": [None, 0.5], "c": [0, 1, 2], "4": [True, None]}
    assert "\n" not in text


def test_table_names_nested_values_and_shows_lists():
    table = output.as_table(
        {"bpb": 2.123456789, "compressors": {"gzip": 3}, "lags": [1.5, None], "source": "stdlib:code"}
    )
    assert table.splitlines() == [
        "bpb               2.12346",
        "compressors.gzip  3",
        "lags              1.5 -",
        "source            stdlib:code",
    ]


def test_a_table_and_a_text_hold_nothing_that_steers_a_terminal():
    table = output.as_table({"a\x1b[2J": ["b\r", "c\nd"], "e\u202e": "f\udcff\u2028"})
    assert table.splitlines() == ["a\\x1b[2J  b\\r c\\nd", "e\\u202e   f\\xff\\u2028"]
    assert output.escaped("plain é │ ⏎ 漢字") == "plain é │ ⏎ 漢字"
    assert output.escaped("\ud800\x85\x9b\t\n", "\n") == "\\ud800\\x85\\x9b\\t\n"


def test_what_anyone_may_have_written_is_one_line_and_short():
    assert output.one_line(ValueError("a\x1b[2J\r\n  b")) == "a\\x1b[2J b"
    assert output.one_line("x" * 9, longest=8) == "xxxxx..." and output.one_line("x" * 8, longest=8) == "x" * 8


def test_a_value_is_shown_short():
    assert output.short_repr("a") == "'a'" and output.short_repr(10**5000) == "a number of thousands of digits"
    assert output.short_repr("x" * 300) == "'" + "x" * 199 + "... (302 characters)"


def test_empty_table():
    assert output.as_table({}) == ""


def test_quantities_are_short():
    values = (0, 0.25, 7, 950, 999.4, 999.6, 1000, 12500, 3.14159e6, 999999, 1.2e9, 2.5e12, 4e15, -1500)
    wanted = "0 0.25 7 950 999 1k 1k 12.5k 3.14M 1M 1.2G 2.5T 4P -1.5k"
    assert " ".join(map(output.quantity, values)) == wanted


def record(path, level, message="x", name="absl", *arguments):
    return logging.LogRecord(name, level, path, 1, message, arguments, None)


def test_a_log_line_does_not_steer_a_terminal():
    made = output._LogLine("%(message)s")
    said = made.format(record("x", logging.INFO, "reading %s\n\tand more", "absl", "a\x1b[2J\r\u202e\udcff"))
    assert said == "reading a\\x1b[2J\\r\\u202e\\xff\n\tand more"


def test_what_matplotlib_says_without_a_home_is_not_logged():
    assert not output._is_logged(record("/x.py", logging.WARNING, name="matplotlib"))
    assert output._is_logged(record("/x.py", logging.ERROR, name="matplotlib"))


def test_only_our_own_information_is_logged():
    ours = os.path.join(os.path.dirname(output.__file__), "training", "loop.py")
    assert output._is_logged(record(ours, logging.INFO))
    assert not output._is_logged(record("/site-packages/orbax/checkpointer.py", logging.INFO))
    assert output._is_logged(record("/site-packages/orbax/checkpointer.py", logging.WARNING))


def test_columns_have_a_line_per_object():
    rows = {"eng": {"bpb": 1.23456789, "name": "x\x1b"}, "longer": {"bpb": None, "name": "y"}}
    assert output.as_columns("group", rows).splitlines() == [
        "group   bpb      name",
        "eng     1.23457  x\\x1b",
        "longer  -        y",
    ]


def test_an_answer_is_alone_where_libraries_in_c_write_too():
    program = (
        "import os, sys; from scratchpatch import output\n"
        "with output.to_anywhere():\n"
        "    own = output.alone(sys.stdout)\n"
        "    os.write(1, b'chatter'); print('the answer \\udcff', file=own, flush=True)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert (ended.stdout, ended.stderr) == (b"the answer \xff\n", b"chatter")
