"""A document per line, in one field of the JSON object that the line holds, whatever stands in its other fields.

Python's own parser reads a line wherever it can. Where it gives up over what no one asked for (an integer of more than
4,300 digits, nesting beyond its stack, bytes in another field that are no UTF-8), the line is read token by token: as
strictly, but without a value for anything except the field. So is a line of two million values or more, which could
take twenty times its size in memory.
"""

import json
import re
from collections.abc import Iterator
from typing import BinaryIO

from scratchpatch.data.records import BadRecords, Document, Problem, Records, too_large
from scratchpatch.data.sources.compressed import open_bytes
from scratchpatch.data.sources.source import Source

# Bytes that are read together of a line that is passed over.
_PIECE = 1 << 22
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


class JsonLines(Source):
    form = "jsonl:GLOB[#field]"

    def read(self, name: str, path: str, bad: BadRecords) -> Iterator[Document]:
        """A document's name holds its line number, so that it does not depend on which records were skipped."""
        with Records(name, path, bad) as records, open_bytes(path) as file:
            for line in _lines(file, bad.record_bytes):
                if not isinstance(line, Problem):
                    text = text_of(line, self.field) if line.strip() else None
                    line = text.encode("utf-8", "surrogatepass") if type(text) is str else text
                yield from records.documents(line)


def _lines(file: BinaryIO, record_bytes: int) -> Iterator[bytes | Problem]:
    """The lines of a file; a Problem for one of more than so many bytes, which is passed over piece by piece."""
    while line := file.readline(record_bytes + 1):
        if len(line) <= record_bytes or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(_PIECE)
        yield too_large("is longer", record_bytes)


def text_of(line: bytes, field: str) -> str:
    """The string in a field of the object that a line holds, or the Problem."""
    try:
        kind, names, value_kind, value = _parsed(line, field)
    except ValueError as error:
        return Problem(f"not JSON ({error})")
    if kind != "dict":
        return Problem(f"holds a {kind}, wanted an object with a {field!r} field")
    if field not in names:
        has = ", ".join(map(repr, names[:_NAMED])) or "no fields at all"
        return Problem(f"has no field {field!r} (it has {has}; another one is named by jsonl:GLOB#FIELD)")
    return value if value_kind == "str" else Problem(f"field {field!r} holds a {value_kind}, wanted a string")


def _parsed(line: bytes, field: str) -> tuple[str, list[str], str, str]:
    """The kind of a line's value and, of an object, its names, and the kind of the field's value and this string.
    Raises ValueError where the line is no JSON.
    """
    if len(line) <= _VALUES or sum(map(line.count, (b",", b"[", b"{"))) <= _VALUES:
        try:
            record = json.loads(line)
            members = record if isinstance(record, dict) else {}
            value = members.get(field)
            return type(record).__name__, list(members), type(value).__name__, value
        except json.JSONDecodeError as error:
            raise ValueError(f"{error.msg}, column {error.colno}") from error
        except (ValueError, RecursionError):
            pass
    return _scanned(line, field)


def _scanned(line: bytes, field: str) -> tuple[str, list[str], str, str]:
    """`_parsed` without values of other fields; of other names there are some, for an error."""
    try:
        text = line.decode(json.detect_encoding(line), "surrogatepass")
    except UnicodeDecodeError:
        text = line.decode("utf-8", "surrogateescape")
    kind, members = _members(text, field)
    value_kind, token = members.get(field, ("", ""))
    if value_kind != "str":
        return kind, list(members), value_kind, ""
    if not line.isascii() and re.search("[\udc80-\udcff]", token):
        raise ValueError(f"field {field!r} holds bytes that are no UTF-8")
    return kind, list(members), value_kind, json.loads(token)


def _members(text: str, field: str) -> tuple[str, dict[str, tuple[str, str]]]:
    """The kind of the value that a text is and, of an object, by name the kind and token of the field's value. Of some
    more members the names are there, for an error. Raises ValueError where the text is no JSON.
    """
    open_marks: list[str] = []
    members: dict[str, tuple[str, str]] = {}
    top = name = ""
    at = 0
    wanted = "value"  # or "first" (of a list or object, or its end), "name", ":", "next" (a comma, or the end)
    while True:
        at = _SPACE.match(text, at).end()
        if at == len(text) and not open_marks and top:
            return top, members
        match = _TOKEN.match(text, at)
        kind, token = (match.lastgroup, match[0]) if match else ("", "")
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
        elif (kind not in ("", "mark") or token in _KINDS) and (wanted == "value" or wanted + inside == "first["):
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
            what = f"unexpected {text[at : at + 1]!r}, column {at + 1}"
            raise ValueError(what if at < len(text) else "the line breaks off")
        at = match.end()
