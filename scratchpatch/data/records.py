"""Reading one file: raw bytes or JSON lines, with every failure named by file and line."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator
from types import ModuleType
from typing import BinaryIO, NamedTuple

from scratchpatch.data import paths
from scratchpatch.data.extras import need
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


def open_bytes(path: str) -> BinaryIO:
    """The file opened for its bytes, decompressed where its name ends in .gz or .zst."""
    if path.endswith(".zst"):
        zstandard = need("zstandard", "data", f"reading {path}")
        return io.BufferedReader(_Zstandard(paths.open_read(path), zstandard), 1 << 18)
    file = paths.open_read(path)
    return _Gzip(fileobj=file, mode="rb") if path.endswith(".gz") else file


class _Gzip(gzip.GzipFile):
    """Closes the file below it too."""

    def close(self) -> None:
        below = self.fileobj
        super().close()
        if below is not None:
            below.close()


class _Zstandard(io.RawIOBase):
    """The frames of a .zst file one after the other; a file that ends within one raises EOFError."""

    def __init__(self, file: BinaryIO, zstandard: ModuleType):
        self._file, self._module = file, zstandard
        self._frame, self._ready, self._unread = None, memoryview(b""), b""

    def readable(self) -> bool:
        return True

    def readinto(self, into) -> int:
        while not self._ready:
            piece = self._unread or self._file.read(1 << 17)
            self._unread = b""
            if not piece:
                if self._frame is not None:
                    raise EOFError("it ends within a zstandard frame")
                return 0
            self._frame = self._frame or self._module.ZstdDecompressor().decompressobj()
            try:
                self._ready = memoryview(self._frame.decompress(piece))
            except self._module.ZstdError as error:
                raise EOFError(str(error)) from error
            if self._frame.eof:
                self._unread, self._frame = self._frame.unused_data, None
        count = min(len(into), len(self._ready))
        into[:count], self._ready = self._ready[:count], self._ready[count:]
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def explain(error: Exception) -> str:
    """A reading failure in words."""
    if isinstance(error, FileNotFoundError):
        return "the file vanished while it was read"
    if isinstance(error, PermissionError):
        return "no permission to read the file"
    if isinstance(error, (gzip.BadGzipFile, EOFError, zlib.error)):
        return f"not a whole compressed file ({error})"
    return f"cannot be read ({error})"
