"""Lines whose text is fine are read, whatever stands beside it."""

import json
from unittest import mock

import pytest
from hypothesis import given, strategies as st

from scratchpatch.data.records import Problem
from scratchpatch.data.sources import jsonl
from scratchpatch.data.sources.jsonl import text_of

STRANGE_VALUES = [
    "9" * 5000,
    "-" + "1" * 5000,
    "[" * 50_000 + '{"text": "no"}' + "]" * 50_000,
    '{"a":' * 20_000 + "1" + "}" * 20_000,
    "[1, " + "2" * 5000 + ', "text", {"text": "no"}]',
]
LINES = [
    '{{"id": {other}, "text": "caf\\u00e9 {{\\" x"}}',
    ' {{"text" : "caf\\u00e9 {{\\" x", "id":{other}}} ',
]


@pytest.mark.parametrize("other", STRANGE_VALUES)
@pytest.mark.parametrize("line", LINES)
def test_text_beside_what_python_does_not_parse(line, other):
    assert text_of(line.format(other=other).encode(), "text") == 'caf\u00e9 {" x'


def test_text_beside_bytes_that_are_no_utf8():
    assert text_of(b'{"raw": "\xff\xfe", "text": "caf\xc3\xa9"}', "text") == "caf\u00e9"
    problem = text_of(b'{"raw": "fine", "text": "\xff"}', "text")
    assert isinstance(problem, Problem) and problem == "not JSON (field 'text' holds bytes that are no UTF-8)"


def test_the_last_of_two_fields_of_one_name_counts_as_in_python():
    line = '{"text": "first", "n": %s, "te\\u0078t": "last"}' % ("9" * 5000)
    assert text_of(line.encode(), "text") == "last"


@pytest.mark.parametrize(
    "inner, wanted",
    [
        ('"text": "a"', "a"),
        ('"text": 3', "field 'text' holds a int"),
        ('"b": "text"', "has no field 'text' (it has 'f0', 'f1', 'f2', 'f3', 'f4', 'f5', 'f6', 'f7';"),
    ],
)
def test_many_values_are_passed_over(monkeypatch, inner, wanted):
    def loads(token):
        return token.strip('"') if len(token) < 9 else pytest.fail("the line was parsed whole")

    monkeypatch.setattr(jsonl, "_VALUES", 50)
    line = "{" + ", ".join(f'"f{i}": [{i}, {{}}]' for i in range(100)) + f", {inner}}}"
    monkeypatch.setattr(jsonl.json, "loads", loads)
    assert text_of(line.encode(), "text").startswith(wanted)


NAMES = st.sampled_from(["text", "a", '\u00e9"\\'])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)
LETTERS = st.sampled_from(["", ",", "]", "}", '"', "1", " ", "\\", ":", "\n", "-", "."])


@given(VALUES, st.data())
def test_token_by_token_is_as_strict_as_python(value, data):
    """And says the same, of lines that Python reads and of lines with one letter changed."""
    line = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    if data.draw(st.booleans()) and line:
        at = data.draw(st.integers(0, len(line) - 1))
        line = line[:at] + data.draw(LETTERS) + line[at + 1 :]
    raw = line.encode("utf-8", "surrogatepass")
    wanted = text_of(raw, "text")
    with mock.patch.object(jsonl, "_VALUES", -1):
        scanned = text_of(raw, "text")
    assert type(scanned) is type(wanted)
    assert scanned == wanted or scanned.startswith("not JSON") and wanted.startswith("not JSON")
