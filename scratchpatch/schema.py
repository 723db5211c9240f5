"""What older versions called things, so that folders that they wrote still load.

config.json and every about.json carry the number of the schema that they are written in; those of schema 1 carry none.
A change that gives a field or an array of a checkpoint another name, or takes one away, raises CURRENT by one and says
here, under the number before, what has become of it. New fields of a config need nothing: they have defaults.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scratchpatch.errors import UserError

CURRENT = 2

# Schema to the fields that the next one has renamed, with their new names; None: it does not have them any more.
FIELDS: dict[int, dict[str, str | None]] = {1: {}}
# Schema to the arrays of a checkpoint that the next one does not have any more; and to prefixes of the names of arrays
# that only the next one has, which start at 0.
GONE_ARRAYS: dict[int, tuple[str, ...]] = {1: ("optimizer.1.2.count",)}
NEW_ARRAYS: dict[int, tuple[str, ...]] = {1: ("means.",)}


class Newer(UserError):
    """Written by a version after this one."""


def number(document: dict[str, Any]) -> int:
    """The schema of a config.json or about.json. Raises Newer where it is newer than this package."""
    schema = document.get("schema", 1)
    if not isinstance(schema, int) or not 1 <= schema <= CURRENT:
        by = f", written by version {document['version']}" if "version" in document else ""
        raise Newer(f"it has schema {schema!r}{by}, and this scratchpatch knows those up to {CURRENT}: upgrade it")
    return schema


def fields(document: dict[str, Any]) -> dict[str, Any]:
    """The config in a config.json or about.json, by the names that its fields have now. Raises Newer."""
    values = dict(document["config"])
    for schema in range(number(document), CURRENT):
        for old, new in FIELDS[schema].items():
            if old in values:
                value = values.pop(old)
                values |= {} if new is None else {new: value}
    return values


def gone(document: dict[str, Any], names: Iterable[str]) -> list[str]:
    """The arrays of a checkpoint, among these names, that this package does not have any more."""
    dropped = {name for schema in range(number(document), CURRENT) for name in GONE_ARRAYS[schema]}
    return [name for name in names if name in dropped]


def new(document: dict[str, Any], names: Iterable[str]) -> list[str]:
    """The arrays, among these names, that the checkpoint is too old to have."""
    prefixes = tuple(prefix for schema in range(number(document), CURRENT) for prefix in NEW_ARRAYS[schema])
    return [name for name in names if name.startswith(prefixes)]
