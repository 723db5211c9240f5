"""Stop strings against a search in the whole output."""

import pytest
from hypothesis import given, strategies

from scratchpatch.inference.stops import Stops

STRINGS = strategies.lists(strategies.text("ab", min_size=1, max_size=4).map(str.encode), max_size=3)


def searched(data: bytes, strings) -> tuple[bytes, bool]:
    """What is left of `data`, and whether a string ended it: looked for after each byte."""
    for end in range(len(data) + 1):
        lengths = [len(string) for string in strings if data[:end].endswith(string)]
        if lengths:
            return data[: end - max(lengths)], True
    return data, False


@given(strategies.lists(strategies.text("abc", max_size=5).map(str.encode), max_size=6), STRINGS)
def test_it_equals_the_search_in_the_whole(pieces, strings):
    stops, data, output = Stops(strings), b"".join(pieces), b""
    expected, ended = searched(data, strings)
    for piece in pieces:
        output += stops.push(piece)
        assert expected.startswith(output) and stops.released == len(output)
    output += stops.flush()
    assert (output, stops.ended, stops.released) == (expected, ended, len(expected))


@given(strategies.text("ab", max_size=12).map(str.encode), STRINGS)
def test_only_what_may_begin_a_string_is_held_back(data, strings):
    stops, output = Stops(strings), b""
    for n in range(len(data)):
        output += stops.push(data[n : n + 1])
        if stops.ended:
            break
        ends = [data[i : n + 1] for i in range(n + 1)]
        begun = [end for end in ends if any(string.startswith(end) for string in strings)]
        assert len(output) == n + 1 - max(map(len, begun), default=0)


@pytest.mark.parametrize(
    ("strings", "pieces", "released", "rest"),
    [
        ([], [b"ab", b"c"], [b"ab", b"c"], b""),
        ([b"\n\n"], [b"one\n", b"two\n", b"\nthree"], [b"one", b"\ntwo", b""], b""),
        ([b"stop"], [b"s", b"to", b"ss", b"to"], [b"", b"", b"stos", b""], b"sto"),
        # The shorter string is complete first, although the longer one began before it.
        ([b"abcd", b"bc"], [b"xabcd"], [b"xa"], b""),
        # Both are complete at the same byte: the longer one goes.
        ([b"bc", b"abc"], [b"xabc"], [b"x"], b""),
        ([b"a"], [b"a", b"b"], [b"", b""], b""),
    ],
)
def test_what_is_released_when(strings, pieces, released, rest):
    stops = Stops(strings)
    assert [stops.push(piece) for piece in pieces] == released
    assert stops.flush() == rest and stops.flush() == b""
