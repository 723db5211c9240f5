"""Documents in a column: parquet files, and the Arrow files that Hugging Face's `save_to_disk` writes."""

from __future__ import annotations

from collections.abc import Iterator

from scratchpatch.data import paths
from scratchpatch.data.extras import need
from scratchpatch.data.records import BadRecords, Document, explain

# Rows decoded together: enough to be fast, few enough for wide documents.
_ROWS = 256


def read_parquet(name: str, path: str, field: str, bad: BadRecords) -> Iterator[Document]:
    """One document per row. A file that breaks off is one bad record more."""
    need("pyarrow", "data", f"reading {path}")
    import pyarrow.parquet

    def batches(file):
        table = pyarrow.parquet.ParquetFile(file)
        _check(table.schema_arrow, field)
        return table.iter_batches(batch_size=_ROWS, columns=[field])

    yield from _read(name, path, field, bad, batches)


def read_arrow(name: str, path: str, field: str, bad: BadRecords) -> Iterator[Document]:
    """One document per row of an Arrow stream. A file that breaks off is one bad record more."""
    need("pyarrow", "data", f"reading {path}")
    import pyarrow.ipc

    def batches(file):
        stream = pyarrow.ipc.open_stream(file)
        _check(stream.schema, field)
        return stream

    yield from _read(name, path, field, bad, batches)


class _WrongColumn(Exception):
    """The column is missing, or holds no text."""


def _check(schema, field: str) -> None:
    import pyarrow as pa

    if field not in schema.names:
        has = ", ".join(map(repr, schema.names[:8])) or "none at all"
        raise _WrongColumn(f"has no column {field!r} (it has {has}; another one is named after a #)")
    kind = schema.field(field).type
    if not any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)):
        raise _WrongColumn(f"column {field!r} holds {kind}, wanted string or binary")


def _read(name: str, path: str, field: str, bad: BadRecords, batches) -> Iterator[Document]:
    import pyarrow as pa

    row = 0
    try:
        with paths.open_read(path) as file:
            for batch in batches(file):
                column = batch.column(batch.schema.get_field_index(field))
                # Bytes as they are: a string column may hold what is no UTF-8.
                wide = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
                for value in column.cast(pa.large_binary() if wide else pa.binary()):
                    row += 1
                    data = value.as_py()
                    if data is None:
                        bad.add(f"{path}:{row}", f"column {field!r} holds null, wanted text")
                    else:
                        yield Document(f"{name}#{row}", data)
    except _WrongColumn as error:
        bad.add(path, str(error))
    except (pa.ArrowException, OSError) as error:
        bad.add(f"{path}:{row + 1}", explain(error))
