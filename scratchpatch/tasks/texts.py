"""The documents that a task reads, each with the group that it is counted in."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from scratchpatch.data import sources
from scratchpatch.data.records import BadRecords
from scratchpatch.errors import UserError

# Fields that name a language; of the last one the file's name does.
_LANGUAGE_FIELDS = ("language", "lang", "path")
_LINES_OF_JSON = (".jsonl", ".ndjson")
_CONTINUATIONS = bytes(range(0x80, 0xC0))


@dataclasses.dataclass(frozen=True)
class Text:
    """name: the same on every machine. group: what the document is counted in."""

    name: str
    group: str
    data: bytes


def read(source: str, by: str) -> list[Text]:
    """The documents of a source, in the order in which they stand there.

    Args:
      source: a SPEC as `data.sources` has them; or a path or glob of files, which hold a document per line where their
        names say JSON lines, else one each.
      by: document: each is a group of its own. source: the documents of a file are one. language: the first of the
        fields `language`, `lang` and `path` that the records have says it (the name in a path, without folder and
        ending), else the name of the file. Anything else: this field of the records.
    Raises:
      UserError: no such source, one without documents, or a record that lacks a field, by file and line.
    """
    parsed = sources.parse(spec(source))
    documents = [(document.name, b"".join(document.pieces)) for document in _documents(parsed)]
    if not documents:
        raise UserError(f"{source} holds no documents: name another file")
    names = [name for name, _ in documents]
    groups = _groups(parsed, names, by)
    return [Text(name, group, data) for (name, data), group in zip(documents, groups, strict=True)]


def checksum(texts: Sequence[Text]) -> str:
    """Of the names of the groups, and the bytes of the documents."""
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        for part in (text.group.encode("utf-8", "surrogateescape"), text.data):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


def beginning(data: bytes, size: int) -> bytes:
    """At most `size` bytes, cut between characters; all where `size` is 0."""
    if not size or size >= len(data):
        return data
    cut = size
    while cut > max(size - 4, 0) and _continues(data[cut]):
        cut -= 1
    # Bytes that are no UTF-8 are cut where the size says.
    return data[: size if _continues(data[cut]) else cut]


def characters(data: bytes) -> int:
    """Characters of UTF-8 text: the bytes that continue none."""
    return len(data.translate(None, delete=_CONTINUATIONS))


def _continues(byte: int) -> bool:
    return byte & 0xC0 == 0x80


def spec(source: str) -> str:
    """The SPEC of a source that may be the path or glob of files alone."""
    if not source:
        raise UserError("this task reads text: name it, such as --task=NAME:FILE or --task=NAME:text:books/*.txt")
    scheme, colon, _ = source.partition(":")
    if colon and scheme.isidentifier() and not source.startswith(f"{scheme}://"):
        return source
    if any(ending in source for ending in _LINES_OF_JSON):
        # A # of the path begins no field.
        return f"jsonl:{source.replace('#', '##')}"
    return f"text:{source}"


def _documents(source) -> Iterator:
    return source.documents(source.files(), BadRecords("error"))


def _groups(source, names: list[str], by: str) -> list[str]:
    """The group of each document, in order."""
    if by == "document":
        return names
    # A document of a file that holds several is called FILE#NUMBER.
    of_files = [name.rpartition("#")[0] or name for name in names] if source.field else names
    if by == "source":
        return of_files
    fields = _LANGUAGE_FIELDS if by == "language" else (by,)
    field = next((field for field in fields if source.field and _has(source, field)), None)
    if field is None and by != "language":
        field = by
    if field is None:
        return [_stem(name) for name in of_files]
    if not source.field:
        raise UserError(f"{source.spec} has no fields, so no {field!r}: group its documents by document or source")
    records = _documents(dataclasses.replace(source, field=field))
    values = [b"".join(record.pieces).decode(errors="replace") for record in records]
    return [_stem(value) for value in values] if field == "path" else values


def _has(source, field: str) -> bool:
    try:
        return next(_documents(dataclasses.replace(source, field=field)), None) is not None
    except UserError:
        return False


def _stem(path: str) -> str:
    """The name of a file without folder, and without its ending and that of its compression."""
    name = PurePosixPath(path)
    name = name.with_suffix("") if name.suffix in (".gz", ".zst", ".bz2", ".xz") else name
    return name.stem or path
