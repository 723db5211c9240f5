"""What older versions called things: folders that they wrote still load.

config.json and every about.json carry the number of the schema that they are written in; those of schema 1 carry none. A
change that gives a field or an array of a checkpoint another name, or takes one away, raises CURRENT by one and says
here, under the number before, what has become of it. New fields of a config need nothing: they have defaults.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from scratchpatch.errors import UserError

CURRENT = 2

# Schema to the fields that the next one calls otherwise, with their new names; None: it has them no more.
FIELDS: dict[int, dict[str, str | None]] = {1: {}}
# Schema to the arrays of a checkpoint that the next one has no more, and to the beginnings of the names of those that
# only the next one has: they start at 0.
GONE_ARRAYS: dict[int, tuple[str, ...]] = {1: ("optimizer.1.2.count",)}
NEW_ARRAYS: dict[int, tuple[str, ...]] = {1: ("means.",)}


class Newer(UserError):
    """Written by a version after this one."""


def of(document: dict[str, Any]) -> int:
    """The schema of a config.json or about.json.

    Raises:
      Newer: it is newer than this package.
    """
    found = document.get("schema", 1)
    if not isinstance(found, int) or not 1 <= found <= CURRENT:
        by = f", written by version {document['version']}" if "version" in document else ""
        raise Newer(f"it has schema {found!r}{by}, and this scratchpatch knows those up to {CURRENT}: upgrade it")
    return found


def fields(document: dict[str, Any]) -> dict[str, Any]:
    """The config in a config.json or about.json, by the names that its fields have now. Raises Newer."""
    values = dict(document["config"])
    for schema in range(of(document), CURRENT):
        for old, new in FIELDS[schema].items():
            if old in values:
                value = values.pop(old)
                values |= {} if new is None else {new: value}
    return values


def gone(document: dict[str, Any], names: Iterable[str]) -> list[str]:
    """Those of the arrays of a checkpoint that nothing wants any more."""
    left_out = {name for schema in range(of(document), CURRENT) for name in GONE_ARRAYS[schema]}
    return [name for name in names if name in left_out]


def new(document: dict[str, Any], names: Iterable[str]) -> list[str]:
    """Those of the arrays wanted that the checkpoint is too old to have."""
    begin = tuple(begin for schema in range(of(document), CURRENT) for begin in NEW_ARRAYS[schema])
    return [name for name in names if name.startswith(begin)]
