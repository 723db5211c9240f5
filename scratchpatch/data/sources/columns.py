"""A document per row, in one column: parquet files, and the Arrow files that Hugging Face's `save_to_disk` writes.

A column holds text where its type is string or binary, of any width, as views, dictionary-encoded, run-end-encoded or
under an extension type. `meta.body` is the field `body` of the struct column `meta`, unless a column has that name.
"""

import functools
from collections.abc import Callable, Iterable, Iterator

from scratchpatch.data import paths
from scratchpatch.data.extras import need
from scratchpatch.data.records import DAMAGE, BadRecords, Broken, Document, Problem, Records
from scratchpatch.data.sources.source import Source

# Rows decoded together: enough to be fast, few enough for wide documents.
_ROWS = 256
# Letters of a type in an error: the types of nested columns are as long as their schema.
_TYPE_LETTERS = 120


class Parquet(Source):
    form = "parquet:GLOB[#column]"

    def read(self, name: str, path: str, bad: BadRecords) -> Iterator[Document]:
        """The rows after one that cannot be read are bad records too."""
        pa = need("pyarrow", "data", f"reading {path}")
        import pyarrow.parquet

        with Records(name, path, bad, (pa.ArrowException, *DAMAGE)) as records, paths.open_read(path) as file:
            table = pyarrow.parquet.ParquetFile(file)
            records.count = table.metadata.num_rows
            batches = functools.partial(table.iter_batches, _ROWS, None)  # None: all groups of rows
            yield from _documents(records, self.field, table.schema_arrow, batches)


def read_arrow(name: str, path: str, field: str, bad: BadRecords) -> Iterator[Document]:
    """One document per row of an Arrow stream. A file that breaks off is one bad record more."""
    pa = need("pyarrow", "data", f"reading {path}")
    with Records(name, path, bad, (pa.ArrowException, *DAMAGE)) as records, paths.open_read(path) as file:
        stream = pa.ipc.open_stream(file)
        yield from _documents(records, field, stream.schema, lambda names: stream)


def _documents(records: Records, field: str, schema, batches: Callable[[list[str]], Iterable]) -> Iterator[Document]:
    """The documents of a file, given its schema and how its batches of the named columns are read."""
    names = _located(schema, field)
    if isinstance(names, Problem):
        rows = sum(batch.num_rows for batch in batches([])) if records.count is None else records.count
        raise Broken(records.path, names, rows)
    null = Problem(f"column {field!r} holds null, wanted text")
    for batch in batches([".".join(names)]):
        for value in _bytes_of(batch, names):
            yield from records.documents(value.as_buffer() if value.is_valid else null)


def _located(schema, field: str) -> list[str] | Problem:
    """The names that lead to the field: a column's, or a struct column's and those of fields in it. A Problem where the
    column is missing, named twice, or holds no text.
    """
    names = [field] if field in schema.names else field.split(".")
    fields = [*schema]
    for depth, name in enumerate(names, 1):
        same = [each for each in fields if each.name == name]
        column = ".".join(names[:depth])
        if not same:
            within = f"column {'.'.join(names[: depth - 1])!r} " if depth > 1 else ""
            has = ", ".join(repr(each.name) for each in fields[:8]) or "none at all"
            return Problem(f"{within}has no column {field!r} (it has {has}; another one is named after a #)")
        if len(same) > 1:
            return Problem(f"has {len(same)} columns named {column!r}, and nobody can say which is meant: rename one")
        kind = same[0].type
        holds = f"column {column!r} holds {str(kind)[:_TYPE_LETTERS]}, wanted"
        fields = list(kind) if str(kind).startswith("struct<") else []
        if depth < len(names) and not fields:
            return Problem(f"{holds} a struct with {names[depth]!r}")
    if not _is_text(kind):
        inside = f"; a field in it is named by a dot, such as #{field}.{fields[0].name}" if fields else ""
        return Problem(f"{holds} string or binary{inside}")
    return names


def _is_text(kind) -> bool:
    import pyarrow as pa

    t = pa.types
    if isinstance(kind, pa.BaseExtensionType):
        return _is_text(kind.storage_type)
    if t.is_dictionary(kind) or t.is_run_end_encoded(kind):
        return _is_text(kind.value_type)
    strings = t.is_string, t.is_large_string, t.is_string_view
    binaries = t.is_binary, t.is_large_binary, t.is_binary_view, t.is_fixed_size_binary
    return any(is_kind(kind) for is_kind in strings + binaries)


def _bytes_of(batch, names: list[str]):
    """The values that the names lead to, as binary: a string column may hold what is no UTF-8."""
    import pyarrow as pa
    import pyarrow.compute

    values = batch.column(batch.schema.get_field_index(names[0]))
    for name in names[1:]:
        values = pyarrow.compute.struct_field(values, [name])
    if pa.types.is_run_end_encoded(values.type):
        values = pyarrow.compute.run_end_decode(values)
    values = values.cast(pa.large_binary())
    values.validate(full=True)  # a damaged Arrow file may hold places outside of its data, which nothing else checks
    return values
