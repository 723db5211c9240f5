"""Lines whose text is fine are read, whatever stands beside it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scratchpatch.data import json_lines
from scratchpatch.data.json_lines import Problem, text_of

DEEP = "[" * 50_000 + '{"text": "no"}' + "]" * 50_000


@pytest.mark.parametrize("other", ["9" * 5000, "-" + "1" * 5000, DEEP, '{"a":' * 20_000 + "1" + "}" * 20_000, "[1, " + "2" * 5000 + ', "text", {"text": "no"}]'])
@pytest.mark.parametrize("line", ['{{"id": {other}, "text": "caf\\u00e9 {{\\" x"}}', ' {{"text" : "caf\\u00e9 {{\\" x", "id":{other}}} '])
def test_text_beside_what_python_does_not_parse(line, other):
    assert text_of(line.format(other=other).encode(), "text") == 'caf\u00e9 {" x'


def test_text_beside_bytes_that_are_no_utf8():
    assert text_of(b'{"raw": "\xff\xfe", "text": "caf\xc3\xa9"}', "text") == "caf\u00e9"
    found = text_of(b'{"raw": "fine", "text": "\xff"}', "text")
    assert isinstance(found, Problem) and found == "not JSON (field 'text' holds bytes that are no UTF-8)"


def test_the_last_of_two_fields_of_one_name_counts_as_in_python():
    line = '{"text": "first", "n": %s, "te\\u0078t": "last"}' % ("9" * 5000)
    assert text_of(line.encode(), "text") == "last"


@pytest.mark.parametrize("inner, wanted", [('"text": "a"', "a"), ('"text": 3', "field 'text' holds a int"), ('"b": "text"', "has no field 'text' (it has 'f0', 'f1', 'f2', 'f3', 'f4', 'f5', 'f6', 'f7';")])
def test_many_values_are_passed_over(monkeypatch, inner, wanted):
    monkeypatch.setattr(json_lines, "_VALUES", 50)
    line = "{" + ", ".join(f'"f{i}": [{i}, {{}}]' for i in range(100)) + f", {inner}}}"
    monkeypatch.setattr(json_lines.json, "loads", lambda token: token.strip('"') if len(token) < 9 else pytest.fail("parsed whole"))
    assert text_of(line.encode(), "text").startswith(wanted)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["text", "a", "\u00e9\"\\"]), inner, max_size=3),
    max_leaves=8,
)


@given(values, st.data())
def test_token_by_token_is_as_strict_as_python(value, data):
    """And says the same, of lines that Python reads and of lines with one letter changed."""
    line = json.dumps(value, ensure_ascii=data.draw(st.booleans()))
    if data.draw(st.booleans()) and line:
        at = data.draw(st.integers(0, len(line) - 1))
        line = line[:at] + data.draw(st.sampled_from(["", ",", "]", "}", '"', "1", " ", "\\", ":", "\n", "-", "."])) + line[at + 1 :]
    raw = line.encode("utf-8", "surrogatepass")
    wanted, found = text_of(raw, "text"), json_lines._scanned(raw, "text")
    assert type(found) is type(wanted)
    assert found == wanted or found.startswith("not JSON") and wanted.startswith("not JSON")
