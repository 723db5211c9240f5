"""Reading one file: raw bytes or JSON lines, with every failure named by file and line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from scratchpatch.data.compressed import TooLarge, open_bytes
from scratchpatch.data.json_lines import Problem, text_of
from scratchpatch.errors import UserError

UNREADABLE = (OSError, EOFError, TooLarge)
KEPT_MESSAGES = 20
# The most that one record may hold, where nobody says otherwise: as much is in memory several times while it is read.
RECORD_BYTES = 1 << 26
# Bytes of a text file that are read at first, for most files are little, and of a longer one or a line that is passed over.
_FIRST, _PIECE = 1 << 16, 1 << 22


class Document(NamedTuple):
    """One document.

    Attributes:
        name: the same on every machine.
        data: its raw bytes; of a long text file an iterator of pieces, to be taken before the next document is asked for.
    """

    name: str
    data: bytes | Iterator[bytes]

    @property
    def pieces(self) -> Iterator[bytes]:
        """Its raw bytes in pieces. Raises Broken where the file breaks off: then there is no such document."""
        return iter((self.data,) if isinstance(self.data, bytes) else self.data)


class Broken(Exception):
    """A document that cannot be read to its end; its args are those for `BadRecords.add`."""


class BadRecords:
    """What happens to records that cannot be read: 'error' raises at once, 'skip' counts them.

    Attributes:
        count: records skipped.
        broken: files that break off, so that nobody knows how many records after the bad one are lost.
        messages: the first of them, one line each.
        record_bytes: the most that one record may hold.
    """

    def __init__(self, mode: str, record_bytes: int = RECORD_BYTES):
        self.mode, self.record_bytes = mode, record_bytes
        self.count = self.broken = 0
        self.messages: list[str] = []

    def add_too_large(self, place: str, size: int | None = None) -> None:
        """Count a record that holds more than it may. Raises UserError unless the mode is 'skip'."""
        self.add(place, too_large(f"holds {size:,} bytes" if size else "is longer", self.record_bytes))

    def add(self, place: str, problem: str, records: int | None = 1) -> None:
        """Count `records` of one problem; None: one, and nobody knows how many after it.

        `place` is FILE or FILE:LINE. Raises UserError unless the mode is 'skip'.
        """
        message = f"{place}: {problem}"
        if self.mode != "skip":
            raise UserError(message + FIX)
        if records is None:
            self.broken += 1
            message += "; what follows in this file is left out, nobody knows how many records"
        elif records > 1:
            message += f"; {records:,} records"
        self.count += 1 if records is None else records
        if len(self.messages) < KEPT_MESSAGES:
            self.messages.append(message)


FIX = "; mend or remove it, or set data.on_bad_record=skip"


def too_large(what: str, record_bytes: int) -> str:
    """The problem of a record that holds more than it may, in words."""
    return f"{what}, data.record_bytes = {record_bytes} allows no more than that: raise it (prepare: --record_bytes) where it is meant to be so long"


def skipped(count: int, broken: int) -> str:
    """In words, what was left out: records, and files that broke off."""
    files = f", and what follows in {broken:,} file(s) that break off" if broken else ""
    return f"{count:,} bad record(s) skipped{files}"


def read_text(name: str, path: str, bad: BadRecords) -> Iterator[Document]:
    """The whole file as one document, byte for byte."""
    try:
        with open_bytes(path, bad.record_bytes) as file:
            data = file.read(_FIRST)
            if len(data) == _FIRST:
                yield Document(name, _pieces(data, file, path))
                return
    except UNREADABLE as error:
        bad.add(path, explain(error))
        return
    yield Document(name, data)


def _pieces(data: bytes, file: BinaryIO, path: str) -> Iterator[bytes]:
    """What was read of a file, and its rest."""
    while data:
        yield data
        try:
            data = file.read(_PIECE)
        except UNREADABLE as error:
            raise Broken(path, explain(error)) from error


def read_jsonl(name: str, path: str, field: str, bad: BadRecords) -> Iterator[Document]:
    """One document per line; blank lines are none. A file that breaks off is one bad record more.

    A document's name holds its line number, so that it does not depend on which records were skipped.
    """
    number = 0
    try:
        with open_bytes(path) as file:
            for number, line in enumerate(_lines(file, bad.record_bytes), 1):
                if line is None:
                    bad.add_too_large(f"{path}:{number}")
                    continue
                if not line.strip():
                    continue
                text = text_of(line, field)
                if isinstance(text, Problem):
                    bad.add(f"{path}:{number}", text)
                else:
                    yield Document(f"{name}#{number}", text.encode("utf-8", "surrogatepass"))
    except UNREADABLE as error:
        bad.add(f"{path}:{number + 1}", explain(error), records=None)


def _lines(file: BinaryIO, most: int) -> Iterator[bytes | None]:
    """The lines of a file; None for one of more than so many bytes, which is passed over piece by piece."""
    while line := file.readline(most + 1):
        if len(line) <= most or line.endswith(b"\n"):
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(_PIECE)
        yield None


def explain(error: Exception) -> str:
    """A reading failure in words."""
    if isinstance(error, FileNotFoundError):
        return "the file vanished while it was read"
    if isinstance(error, PermissionError):
        return "no permission to read the file"
    if isinstance(error, EOFError):
        return f"not a whole compressed file ({error})"
    if isinstance(error, TooLarge):
        return too_large("unpacks to more", error.args[0])
    return f"cannot be read ({error})"
