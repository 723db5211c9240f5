"""Documents in a column: parquet files, and the Arrow files that Hugging Face's `save_to_disk` writes.

A column holds text where its type is string or binary, of any width, as views,
dictionary-encoded, run-end-encoded or under an extension type. `meta.body` is
the field `body` of the struct column `meta`, unless a column has that name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from scratchpatch.data import paths
from scratchpatch.data.extras import need
from scratchpatch.data.records import BadRecords, Document, explain

# Rows decoded together: enough to be fast, few enough for wide documents.
_ROWS = 256
# Of a type in an error: those of nested columns are as long as their schema.
_TYPE_LETTERS = 120


class _Opened(NamedTuple):
    """A file of columns: its schema, how many rows it has (None: it does not say), its batches of the named columns."""

    schema: Any
    rows: int | None
    batches: Callable[[list[str]], Iterator]


def read_parquet(name: str, path: str, field: str, bad: BadRecords) -> Iterator[Document]:
    """One document per row. The rows after one that cannot be read are bad records too."""
    need("pyarrow", "data", f"reading {path}")
    import pyarrow.parquet

    def opened(file):
        table = pyarrow.parquet.ParquetFile(file)
        batches = lambda columns: table.iter_batches(batch_size=_ROWS, columns=columns)  # noqa: E731
        return _Opened(table.schema_arrow, table.metadata.num_rows, batches)

    yield from _read(name, path, field, bad, opened)


def read_arrow(name: str, path: str, field: str, bad: BadRecords) -> Iterator[Document]:
    """One document per row of an Arrow stream. A file that breaks off is one bad record more."""
    need("pyarrow", "data", f"reading {path}")
    import pyarrow.ipc

    def opened(file):
        stream = pyarrow.ipc.open_stream(file)
        return _Opened(stream.schema, None, lambda _: iter(stream))

    yield from _read(name, path, field, bad, opened)


class _WrongColumn(Exception):
    """The column is missing, named twice, or holds no text."""


def _locate(schema, field: str) -> list[str]:
    """The names that lead to the field: a column's, or a struct column's and those of fields in it."""
    names = [field] if field in schema.names else field.split(".")
    fields = [*schema]
    for depth, name in enumerate(names):
        found = [each for each in fields if each.name == name]
        there = ".".join(names[: depth + 1])
        if not found:
            within = f"column {'.'.join(names[:depth])!r} " if depth else ""
            has = ", ".join(repr(each.name) for each in fields[:8]) or "none at all"
            raise _WrongColumn(f"{within}has no column {field!r} (it has {has}; another one is named after a #)")
        if len(found) > 1:
            raise _WrongColumn(f"has {len(found)} columns named {there!r}, and nobody can say which is meant: rename one")
        kind = found[0].type
        fields = [kind.field(i) for i in range(kind.num_fields)] if _is_struct(kind) else []
        if there != field and not fields:
            raise _WrongColumn(f"column {there!r} holds {str(kind)[:_TYPE_LETTERS]}, wanted a struct with {names[depth + 1]!r}")
    if not _is_text(kind):
        inside = f"; a field in it is named by a dot, such as #{field}.{fields[0].name}" if fields else ""
        raise _WrongColumn(f"column {field!r} holds {str(kind)[:_TYPE_LETTERS]}, wanted string or binary{inside}")
    return names


def _is_struct(kind) -> bool:
    import pyarrow as pa

    return pa.types.is_struct(kind)


def _is_text(kind) -> bool:
    import pyarrow as pa

    t = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _is_text(kind.storage_type)
    if t.is_dictionary(kind) or t.is_run_end_encoded(kind):
        return _is_text(kind.value_type)
    strings = t.is_string, t.is_large_string, t.is_string_view
    return any(test(kind) for test in (*strings, t.is_binary, t.is_large_binary, t.is_binary_view, t.is_fixed_size_binary))


def _bytes_of(batch, names: list[str]):
    """The values that names lead to, as they are: a string column may hold what is no UTF-8."""
    import pyarrow as pa
    import pyarrow.compute

    found = batch.column(batch.schema.get_field_index(names[0]))
    for name in names[1:]:
        found = pyarrow.compute.struct_field(found, [name])
    while True:
        if isinstance(found, pa.ExtensionArray):
            found = found.storage
        elif pa.types.is_dictionary(found.type):
            found = found.dictionary_decode()
        elif pa.types.is_run_end_encoded(found.type):
            found = pyarrow.compute.run_end_decode(found)
        else:
            return found.cast(pa.large_binary())


def _read(name: str, path: str, field: str, bad: BadRecords, opened: Callable[[Any], _Opened]) -> Iterator[Document]:
    import pyarrow as pa

    row, rows = 0, None
    try:
        with paths.open_read(path) as file:
            schema, rows, batches = opened(file)
            try:
                names = _locate(schema, field)
            except _WrongColumn as error:
                bad.add(path, str(error), sum(batch.num_rows for batch in batches([])) if rows is None else rows)
                return
            for batch in batches([".".join(names)]):
                for value in _bytes_of(batch, names):
                    row += 1
                    if not value.is_valid:
                        bad.add(f"{path}:{row}", f"column {field!r} holds null, wanted text")
                    elif (size := value.as_buffer().size) > bad.record_bytes:
                        bad.add_too_large(f"{path}:{row}", size)
                    else:
                        yield Document(f"{name}#{row}", value.as_py())
    # What pyarrow makes of damage: besides its own, numbers that are too large for Python or the memory.
    except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError, IndexError) as error:
        bad.add(f"{path}:{row + 1}", explain(error), None if rows is None else rows - row)
