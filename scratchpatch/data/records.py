"""What a file holds: documents, and records that cannot be read, each named by its file and number."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

from scratchpatch.errors import UserError

_MESSAGES = 20
# The most that one record may hold by default: a record is in memory several times while it is read.
RECORD_BYTES = 1 << 26
FIX = "; mend or remove it, or set data.on_bad_record=skip"


class Document(NamedTuple):
    """One document. The data of a long text file is an iterator, to be used before the next document is asked for."""

    name: str  # the same on every machine
    data: bytes | Iterator[bytes]

    @property
    def pieces(self) -> Iterator[bytes]:
        """Its raw bytes in pieces. Raises Broken where the file breaks off: then there is no such document."""
        return iter((self.data,) if isinstance(self.data, bytes) else self.data)


class Problem(str):
    """Why a record holds no document, in words."""


class Broken(Exception):
    """A document or file that cannot be read to its end; its args are those of `BadRecords.add`."""


class TooLarge(Exception):
    """A file unpacks to more than it may; its argument is how many bytes it may."""


# What is raised while any file is read.
UNREADABLE = (OSError, EOFError, TooLarge)
# What libraries raise where a file is damaged: it may hold numbers that are too large for Python, or for the memory.
DAMAGE = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, MemoryError, OverflowError)


@dataclasses.dataclass
class BadRecords:
    """What happens to records that cannot be read: the mode 'error' raises at once, 'skip' counts them."""

    mode: str
    record_bytes: int = RECORD_BYTES  # the most that one record may hold
    count: int = 0  # records skipped
    broken: int = 0  # files that break off, so that nobody knows how many records after the bad one are lost
    messages: list[str] = dataclasses.field(default_factory=list)  # one line for each of the first problems

    def add(self, place: str, problem: str, records: int | None = 1) -> None:
        """Count `records` of one problem; None: one, and nobody knows how many after it. `place` is FILE or
        FILE:NUMBER. Raises UserError unless the mode is 'skip'.
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
        if len(self.messages) < _MESSAGES:
            self.messages.append(message)


@dataclasses.dataclass
class Records:
    """The records of one file, numbered from 1. As a context it counts what is lost where the file is damaged."""

    name: str  # of the file; begins the names of its documents
    path: str
    bad: BadRecords  # takes the records that cannot be read
    damage: tuple[type[Exception], ...] = ()  # what reading the file raises beside UNREADABLE
    says: str = "cannot be read"  # what such an error means
    count: int | None = None  # how many records the file says that it holds, if it does
    number: int = 0  # of the record that was read last

    def documents(self, record: bytes | Problem | None) -> Iterator[Document]:
        """The document of the next record, if it has one (any object with a length and the buffer protocol is bytes). A
        record of None is no document, and not a bad one. Raises UserError as `BadRecords.add` does.
        """
        self.number += 1
        place = f"{self.path}:{self.number}"
        if isinstance(record, Problem):
            self.bad.add(place, record)
        elif record is not None and len(record) > self.bad.record_bytes:
            self.bad.add(place, too_large(f"holds {len(record):,} bytes", self.bad.record_bytes))
        elif record is not None:
            yield Document(f"{self.name}#{self.number}", bytes(record))

    def __enter__(self) -> Records:
        return self

    def __exit__(self, _, error: BaseException | None, __) -> bool:
        if isinstance(error, Broken):
            self.bad.add(*error.args)
        elif isinstance(error, UNREADABLE + self.damage):
            lost = None if self.count is None else self.count - self.number
            self.bad.add(f"{self.path}:{self.number + 1}", explain(error, self.says), lost)
        else:
            return False
        return True


def too_large(what: str, record_bytes: int) -> Problem:
    """The problem of a record that holds more than it may; `what` says how it does."""
    return Problem(
        f"{what}, data.record_bytes = {record_bytes} allows no more than that: raise it (prepare: --record_bytes) "
        "where it is meant to be so long"
    )


def skipped(count: int, broken: int) -> str:
    """What was left out, in words: records, and files that broke off."""
    files = f", and what follows in {broken:,} file(s) that break off" if broken else ""
    return f"{count:,} bad record(s) skipped{files}"


def explain(error: Exception, says: str = "cannot be read") -> str:
    """A reading failure in words; `says` is what an error of the library that decodes the file means."""
    if isinstance(error, FileNotFoundError):
        return "the file vanished while it was read"
    if isinstance(error, PermissionError):
        return "no permission to read the file"
    if isinstance(error, EOFError):
        return f"not a whole compressed file ({error})"
    if isinstance(error, TooLarge):
        return too_large("unpacks to more", error.args[0])
    if isinstance(error, OSError):
        return f"cannot be read ({error})"
    # The words of a library may be long, and stand on several lines.
    return f"{says} ({' '.join(str(error).split())[:200]})"
