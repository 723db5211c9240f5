"""Reading one file: raw bytes or JSON lines, with every failure named by file and line."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from scratchpatch.errors import UserError

UNREADABLE = (OSError, EOFError, zlib.error)
KEPT_MESSAGES = 20


class Document(NamedTuple):
    """One document: a name that is the same on every machine, and its raw bytes."""

    name: str
    data: bytes


class BadRecords:
    """What happens to a record that cannot be read: 'error' raises at once, 'skip' counts it.

    Attributes:
        count: records skipped.
        messages: the first of them, one line each.
    """

    def __init__(self, mode: str):
        self.mode = mode
        self.count = 0
        self.messages: list[str] = []

    def add(self, place: str, problem: str) -> None:
        """`place` is FILE or FILE:LINE. Raises UserError unless the mode is 'skip'."""
        message = f"{place}: {problem}"
        if self.mode != "skip":
            raise UserError(message + FIX)
        self.count += 1
        if len(self.messages) < KEPT_MESSAGES:
            self.messages.append(message)


FIX = "; mend or remove it, or set data.on_bad_record=skip"


def read_text(name: str, path: str, bad: BadRecords) -> Iterator[Document]:
    """The whole file as one document, byte for byte."""
    try:
        with open_bytes(path) as file:
            data = file.read()
    except UNREADABLE as error:
        bad.add(path, explain(error))
        return
    yield Document(name, data)


def read_jsonl(name: str, path: str, field: str, bad: BadRecords) -> Iterator[Document]:
    """One document per line; blank lines are none. A file that breaks off is one bad record more.

    A document's name holds its line number, so that it does not depend on which records were skipped.
    """
    number = 0
    try:
        with open_bytes(path) as file:
            for number, line in enumerate(file, 1):
                if not line.strip():
                    continue
                text = _field_of(line, field)
                if isinstance(text, _Problem):
                    bad.add(f"{path}:{number}", text)
                else:
                    yield Document(f"{name}#{number}", text.encode("utf-8", "surrogatepass"))
    except UNREADABLE as error:
        bad.add(f"{path}:{number + 1}", explain(error))


class _Problem(str):
    """Why a line holds no document."""


def _field_of(line: bytes, field: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        return _Problem(f"not JSON ({error.msg}, column {error.colno})")
    except (ValueError, RecursionError) as error:
        return _Problem(f"not JSON ({error})")
    if not isinstance(record, dict):
        return _Problem(f"holds a {type(record).__name__}, wanted an object with a {field!r} field")
    if field not in record:
        has = ", ".join(map(repr, list(record)[:8])) or "no fields at all"
        return _Problem(f"has no field {field!r} (it has {has}; another one is named by jsonl:GLOB#FIELD)")
    if not isinstance(record[field], str):
        return _Problem(f"field {field!r} holds a {type(record[field]).__name__}, wanted a string")
    return record[field]


def open_bytes(path: str):
    """The file opened for its bytes, decompressed where its name ends in .gz."""
    return gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")


def explain(error: Exception) -> str:
    """A reading failure in words."""
    if isinstance(error, FileNotFoundError):
        return "the file vanished while it was read"
    if isinstance(error, PermissionError):
        return "no permission to read the file"
    if isinstance(error, (gzip.BadGzipFile, EOFError, zlib.error)):
        return f"not a whole gzip file ({error})"
    return f"cannot be read ({error})"
