"""ArrayRecord files of raw documents."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader

from scratchpatch.data import paths
from scratchpatch.data.records import BadRecords, Document, explain

_RECORDS = 64


def read_array_record(name: str, path: str, bad: BadRecords) -> Iterator[Document]:
    """One document per record, byte for byte. A record that cannot be read is a bad one, and so are those after it."""
    read, count = 0, None
    try:
        with _local(path) as local:
            reader = ArrayRecordReader(local)
            try:
                count = reader.num_records()
                for first in range(0, count, _RECORDS):
                    for data in reader.read(list(range(first, min(first + _RECORDS, count)))):
                        read += 1
                        if len(data) > bad.record_bytes:
                            bad.add_too_large(f"{path}:{read}", len(data))
                        else:
                            yield Document(f"{name}#{read}", data)
            finally:
                reader.close()
    except OSError as error:
        bad.add(path, explain(error), records=count - read if count else None)
    except (RuntimeError, ValueError, IndexError, MemoryError, OverflowError) as error:  # what the reader makes of damage
        problem = f"not a whole ArrayRecord file ({' '.join(str(error).split())[:200]})"
        bad.add(f"{path}:{read + 1}", problem, records=count - read if count else None)


@contextlib.contextmanager
def _local(path: str) -> Iterator[str]:
    """The file on this machine: the reader of ArrayRecord knows no URLs."""
    if not paths.is_url(path):
        with paths.open_read(path):  # the system's own words where it cannot be read
            yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        yield paths.fetched(path, Path(folder))
