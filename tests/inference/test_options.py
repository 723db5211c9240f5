"""Which options are refused, and how."""

import math

import numpy as np
import pytest

from scratchpatch.errors import UserError
from scratchpatch.inference.options import Options

NAN, INF = math.nan, math.inf
BAD = [
    *[("max_bytes", value) for value in (-1, 1.0, True, "1", None, 2**31, 10**100)],
    *[("temperature", value) for value in (-0.1, NAN, INF, True, "1", None)],
    *[("top_k", value) for value in (-1, 0.5, False, 2**31)],
    *[("top_p", value) for value in (0, 0.0, -1.0, 1.0001, NAN, INF, True)],
    *[("min_p", value) for value in (-0.1, 1, 1.0, NAN, False)],
    *[("repetition_penalty", value) for value in (0, 0.0, -1.0, NAN, INF, True)],
    *[("stop", value) for value in ("a", b"a", ["a"], [b"a"], ("a",), (b"a", b""), (b"",), None)],
    *[("seed", value) for value in (-1, 2**63, 1.0, True, None)],
    *[("valid_utf8", value) for value in (1, 0, "yes", None, np.bool_(True))],
    *[(name, value) for name in ("patch_threshold", "scratchpad_threshold") for value in (NAN, 1e31, True, "1")],
    *[("rate", value) for value in (-0.1, 1.1, NAN, INF, True)],
    *[("logprobs", value) for value in (-1, 21, 1.0, True, None)],
]
GOOD = [
    {"max_bytes": 0},
    {"max_bytes": 2**31 - 1},
    {"temperature": 1},
    {"temperature": 10**100},
    {"top_k": 100000},
    {"top_p": 1},
    {"min_p": 0},
    {"repetition_penalty": 0.5},
    {"stop": (b"\xff", b"\xc3")},
    {"stop": ("é".encode(), b"\n"), "valid_utf8": True},
    {"seed": 2**63 - 1},
    {"patch_threshold": -INF, "scratchpad_threshold": INF},
    {"patch_threshold": 1, "rate": 0.25},
    {"rate": 0},
    {"logprobs": 20},
]


def refusal(**fields) -> str:
    with pytest.raises(UserError) as caught:
        Options(**fields).check()
    return str(caught.value)


@pytest.mark.parametrize(("name", "value"), BAD)
def test_bad_values_are_named_in_one_line(name, value):
    message = refusal(**{name: value})
    assert message.startswith(f"{name} = ") and "\n" not in message
    assert repr(value) in message


@pytest.mark.parametrize("fields", GOOD)
def test_good_values_pass(fields):
    Options(**fields).check()


def test_defaults_pass_and_rows_with_equal_options_are_equal():
    Options().check()
    assert hash(Options(stop=(b"a",))) == hash(Options(stop=(b"a",)))


def test_a_rate_and_a_threshold_exclude_each_other():
    message = refusal(rate=0.25, scratchpad_threshold=1.5)
    assert "rate = 0.25" in message and "scratchpad_threshold = 1.5" in message
    Options(rate=0.25, patch_threshold=1.5).check()


@pytest.mark.parametrize("string", (b"\xc3", b"\xa9", b"a\xff", b"\xed\xa0\x80"))
def test_stop_strings_of_valid_utf8_are_whole_characters(string):
    message = refusal(stop=(b"a", string), valid_utf8=True)
    assert repr(string) in message and "valid_utf8" in message
    Options(stop=(b"a", string)).check()
