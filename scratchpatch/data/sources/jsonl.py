"""A document per line, in one field of the JSON object that the line holds; blank lines are none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from scratchpatch.data.records import BadRecords, Document, Problem, Records, too_large
from scratchpatch.data.sources.compressed import open_bytes
from scratchpatch.data.sources.json_field import text_of
from scratchpatch.data.sources.source import Source

# Bytes that are read together of a line that is passed over.
_PIECE = 1 << 22


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
