"""Documents as the tests of sources read and write them."""

import pyarrow as pa
import pyarrow.parquet
from array_record.python.array_record_module import ArrayRecordWriter

from scratchpatch.data import sources
from scratchpatch.data.records import RECORD_BYTES, BadRecords

TEXTS = [b"one", b"", "caf\u00e9 \u4e2d".encode(), b"x" * 300]


def read(spec, mode="error", record_bytes=RECORD_BYTES):
    """(name, bytes) of every document of a SPEC, and its bad records."""
    source = sources.parse(spec)
    bad = BadRecords(mode, record_bytes)
    documents = source.documents(source.files(), bad)
    return [(document.name, b"".join(document.pieces)) for document in documents], bad


def texts(spec, mode="error", record_bytes=RECORD_BYTES):
    """The bytes of every document of a SPEC."""
    return [data for _, data in read(spec, mode, record_bytes)[0]]


def write_arrow(path, table, rows_per_batch=None):
    """A file as `save_to_disk` writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table, max_chunksize=rows_per_batch)


def write_parquets(folder, *names):
    """Parquet files of one row each, which holds the file's name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pa.table({"content": [name]}), folder / name)


def write_records(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def blank_the_middle(path, size: int) -> None:
    """Damage a file: `size` bytes from its middle on are zeros."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + size] = bytes(size)
    path.write_bytes(data)
