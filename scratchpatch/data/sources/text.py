"""A document per file, byte for byte; a long file is read in pieces."""

from collections.abc import Iterator
from typing import BinaryIO

from scratchpatch.data.records import UNREADABLE, BadRecords, Broken, Document, explain
from scratchpatch.data.sources.compressed import open_bytes
from scratchpatch.data.sources.source import Source

# Bytes that are read of a file at first, for most files are little, and then of a longer one.
_FIRST_PIECE = 1 << 16
_PIECE = 1 << 22


class Text(Source):
    form = "text:GLOB"

    def read(self, name: str, path: str, bad: BadRecords) -> Iterator[Document]:
        try:
            with open_bytes(path, bad.record_bytes) as file:
                data = file.read(_FIRST_PIECE)
                if len(data) == _FIRST_PIECE:
                    yield Document(name, _pieces(data, file, path))
                    return
        except UNREADABLE as error:
            bad.add(path, explain(error))
            return
        yield Document(name, data)


def _pieces(data: bytes, file: BinaryIO, path: str) -> Iterator[bytes]:
    while data:
        yield data
        try:
            data = file.read(_PIECE)
        except UNREADABLE as error:
            raise Broken(path, explain(error)) from error
