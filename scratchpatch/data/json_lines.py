"""The text in one field of a JSON line, whatever stands in its other fields.

Python's own parser reads a line wherever it can. Where it gives up over what
no one asked for (an integer of more than 4,300 digits, nesting beyond its
stack, bytes in another field that are no UTF-8), the line is read token by
token: as strictly, but without a value for anything except the field. So is a
line of two million values or more, which could take twenty times its size in memory.
"""

from __future__ import annotations

import json
import re

# Values of a line, at most, that Python's parser reads: one may take seventy bytes.
_VALUES = 1 << 21
# Fields that an error names.
_NAMED = 8
_SPACE = re.compile(r"[ \t\n\r]*")
_TOKEN = re.compile(
    r"(?P<mark>[{}\[\],:])"
    # Without a way back, which for a long string would be remembered at every step.
    r'|(?P<str>"[^"\\\x00-\x1f]*+(?:\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4})[^"\\\x00-\x1f]*+)*+")'
    r"|(?P<float>-?(?:0|[1-9][0-9]*)(?:\.[0-9]+(?:[eE][+-]?[0-9]+)?|[eE][+-]?[0-9]+)|NaN|-?Infinity)"
    r"|(?P<int>-?(?:0|[1-9][0-9]*))"
    r"|(?P<bool>true|false)|(?P<NoneType>null)"
)
_KINDS = {"{": "dict", "[": "list"}
_CLOSES = {"{": "}", "[": "]"}


class Problem(str):
    """Why a line holds no document."""


def text_of(line: bytes, field: str) -> str:
    """The string in a field of the object that a line holds, or the Problem."""
    if len(line) > _VALUES and sum(map(line.count, (b",", b"[", b"{"))) > _VALUES:
        return _scanned(line, field)
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        return Problem(f"not JSON ({error.msg}, column {error.colno})")
    except (ValueError, RecursionError):
        return _scanned(line, field)
    if not isinstance(record, dict):
        return _no_object(type(record).__name__, field)
    if field not in record:
        return _no_field(list(record), field)
    found = record[field]
    return found if isinstance(found, str) else _no_string(type(found).__name__, field)


def _no_object(kind: str, field: str) -> Problem:
    return Problem(f"holds a {kind}, wanted an object with a {field!r} field")


def _no_field(names: list[str], field: str) -> Problem:
    has = ", ".join(map(repr, names[:_NAMED])) or "no fields at all"
    return Problem(f"has no field {field!r} (it has {has}; another one is named by jsonl:GLOB#FIELD)")


def _no_string(kind: str, field: str) -> Problem:
    return Problem(f"field {field!r} holds a {kind}, wanted a string")


def _scanned(line: bytes, field: str) -> str:
    """`text_of` without values of other fields."""
    encoding = json.detect_encoding(line)
    try:
        text = line.decode(encoding, "surrogatepass")
    except UnicodeDecodeError:
        text = line.decode("utf-8", "surrogateescape")
    try:
        kind, members = _members(text, field)
    except ValueError as error:
        return Problem(f"not JSON ({error})")
    if kind != "dict":
        return _no_object(kind, field)
    if field not in members:
        return _no_field(list(members), field)
    kind, token = members[field]
    if kind != "str":
        return _no_string(kind, field)
    found = json.loads(token)
    if not line.isascii() and re.search("[\udc80-\udcff]", token):
        return Problem(f"not JSON (field {field!r} holds bytes that are no UTF-8)")
    return found


def _members(text: str, field: str) -> tuple[str, dict[str, tuple[str, str]]]:
    """The kind of the value that a text is and, of an object, by name the kind and token of the field's value.

    Of some more members the names are there, for an error. Raises ValueError where the text is no JSON.
    """
    open_marks, members, top, name = [], {}, "", ""
    at, wanted = 0, "value"
    while True:
        at = _SPACE.match(text, at).end()
        if at == len(text) and not open_marks and top:
            return top, members
        found = _TOKEN.match(text, at)
        kind, token = (found.lastgroup, found[0]) if found else ("", "")
        inside = open_marks[-1] if open_marks else ""
        if token and token == _CLOSES.get(inside) and wanted in ("next", "first"):
            open_marks.pop()
            wanted = "next"
        elif wanted == "next" and token == "," and inside:
            wanted = "name" if inside == "{" else "value"
        elif wanted == ":" and token == ":":
            wanted = "value"
        elif kind == "str" and inside == "{" and wanted in ("first", "name"):
            name = json.loads(token) if len(open_marks) == 1 else name
            wanted = ":"
        elif (wanted == "value" or wanted == "first" and inside == "[") and (kind not in ("", "mark") or token in _KINDS):
            kind = _KINDS.get(token, kind)
            if not open_marks:
                top = kind
            elif len(open_marks) == 1 and inside == "{":
                if name == field:
                    members[name] = kind, token
                elif len(members) < _NAMED:
                    members[name] = kind, ""
            if token in _KINDS:
                open_marks.append(token)
            wanted = "first" if token in _KINDS else "next"
        else:
            raise ValueError(f"unexpected {text[at : at + 1]!r}, column {at + 1}" if at < len(text) else "the line breaks off")
        at = found.end()
