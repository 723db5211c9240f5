"""Reading one file: raw bytes or JSON lines, with every failure named by file and line."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from scratchpatch.data.compressed import open_bytes
from scratchpatch.data.json_lines import Problem, text_of
from scratchpatch.errors import UserError

UNREADABLE = (OSError, EOFError)
KEPT_MESSAGES = 20


class Document(NamedTuple):
    """One document: a name that is the same on every machine, and its raw bytes."""

    name: str
    data: bytes


class BadRecords:
    """What happens to records that cannot be read: 'error' raises at once, 'skip' counts them.

    Attributes:
        count: records skipped.
        broken: files that break off, so that nobody knows how many records after the bad one are lost.
        messages: the first of them, one line each.
    """

    def __init__(self, mode: str):
        self.mode = mode
        self.count = self.broken = 0
        self.messages: list[str] = []

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


def skipped(count: int, broken: int) -> str:
    """In words, what was left out: records, and files that broke off."""
    files = f", and what follows in {broken:,} file(s) that break off" if broken else ""
    return f"{count:,} bad record(s) skipped{files}"


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
                text = text_of(line, field)
                if isinstance(text, Problem):
                    bad.add(f"{path}:{number}", text)
                else:
                    yield Document(f"{name}#{number}", text.encode("utf-8", "surrogatepass"))
    except UNREADABLE as error:
        bad.add(f"{path}:{number + 1}", explain(error), records=None)


def explain(error: Exception) -> str:
    """A reading failure in words."""
    if isinstance(error, FileNotFoundError):
        return "the file vanished while it was read"
    if isinstance(error, PermissionError):
        return "no permission to read the file"
    if isinstance(error, EOFError):
        return f"not a whole compressed file ({error})"
    return f"cannot be read ({error})"
