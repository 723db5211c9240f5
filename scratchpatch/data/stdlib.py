"""The text that every machine with Python has: its standard library.

Two sources of it share their names: the module docstring of `argparse.py` and
its code fall into the same split, so what one source holds out the other does
not train on.
"""

from __future__ import annotations

import ast
import importlib
import os
import sysconfig
import warnings
from collections.abc import Iterator

from scratchpatch.data import paths
from scratchpatch.data.records import UNREADABLE, BadRecords, Document, explain, read_text
from scratchpatch.errors import UserError

KINDS = ("code", "prose")
TOPICS = "pydoc_data/topics.py"
# Tests (most of the bytes, much of it tables), installed packages, and what
# the build wrote about this one machine.
_SKIPPED_FOLDERS = ("test", "idlelib", "site-packages", "dist-packages", "lib2to3/tests")
_SKIPPED_PREFIXES = ("config-", "_sysconfigdata")


def files(root: str | None = None) -> list[tuple[str, str]]:
    """(relative name, path) of every source file, ordered by name."""
    root = root or sysconfig.get_path("stdlib")
    found = []
    for folder, folders, names in os.walk(root):
        inside = os.path.relpath(folder, root).replace(os.sep, "/")
        prefix = "" if inside == "." else inside + "/"
        folders[:] = [f for f in folders if _kept(prefix + f)]
        found += [
            (prefix + name, os.path.join(folder, name))
            for name in names
            if name.endswith(".py") and _kept(prefix + name) and os.path.isfile(os.path.join(folder, name))
        ]
    return sorted(found)


def _kept(name: str) -> bool:
    return name not in _SKIPPED_FOLDERS and not name.startswith(_SKIPPED_PREFIXES)


def read_code(name: str, path: str, bad: BadRecords) -> Iterator[Document]:
    """The file itself, but not the language reference, which is prose inside one literal."""
    if name != TOPICS:
        yield from read_text(name, path, bad)


def read_prose(name: str, path: str, bad: BadRecords) -> Iterator[Document]:
    """The file's module docstring without its indentation, or the topics of the language reference."""
    if name == TOPICS:
        yield from _topics()
        return
    try:
        with paths.open_read(path) as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            text = ast.get_docstring(ast.parse(file.read()))
    except (*UNREADABLE, SyntaxError, ValueError, RecursionError, MemoryError) as error:
        bad.add(path, explain(error))
        return
    if text:
        yield Document(name, _clean(text))


def _topics() -> Iterator[Document]:
    try:
        topics = importlib.import_module("pydoc_data.topics").topics
    except ImportError as error:
        raise UserError(
            f"stdlib:prose: this Python lacks pydoc_data.topics ({error}); install its whole standard library"
        ) from error
    for title in sorted(topics):
        yield Document(f"topics/{title}", _clean(topics[title]))


def _clean(text: str) -> bytes:
    lines = [line.rstrip() for line in text.strip().splitlines()]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
