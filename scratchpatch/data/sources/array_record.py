"""A document per record of ArrayRecord files, byte for byte."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader

from scratchpatch.data import paths
from scratchpatch.data.records import DAMAGE, BadRecords, Document, Records
from scratchpatch.data.sources.source import Source

# Records that are read together.
_RECORDS = 64


class ArrayRecord(Source):
    form = "array_record:GLOB"

    def read(self, name: str, path: str, bad: BadRecords) -> Iterator[Document]:
        """A record that cannot be read is a bad one, and so are those after it."""
        records = Records(name, path, bad, DAMAGE, "not a whole ArrayRecord file")
        # The reader knows no URLs.
        copy = tempfile.TemporaryDirectory() if paths.is_url(path) else contextlib.nullcontext(".")
        with records, copy as folder:
            paths.open_read(path).close()  # the system's own words where it cannot be read
            with contextlib.closing(ArrayRecordReader(paths.fetched(path, Path(folder)))) as reader:
                records.count = reader.num_records() or None
                for start in range(0, records.count or 0, _RECORDS):
                    for record in reader.read(list(range(start, min(start + _RECORDS, records.count)))):
                        yield from records.documents(record)
