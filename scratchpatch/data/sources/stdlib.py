"""The text that every machine with Python has: its standard library.

Two sources of it share their names: the module docstring of `argparse.py` and its code fall into the same split, so
what one source holds out the other does not train on.
"""

import ast
import os
import sysconfig
import warnings
from collections.abc import Iterator

from scratchpatch.data import paths
from scratchpatch.data.records import UNREADABLE, BadRecords, Document, explain
from scratchpatch.data.sources.text import Text
from scratchpatch.errors import UserError

TOPICS = "pydoc_data/topics.py"
# Tests (most of the bytes, many of them tables), installed packages, and what the build wrote about this one machine.
_SKIPPED_FOLDERS = ("test", "idlelib", "site-packages", "dist-packages", "lib2to3/tests")
_SKIPPED_PREFIXES = ("config-", "_sysconfigdata")


class StandardLibrary(Text):
    """The target is 'code' or 'prose'."""

    form = "stdlib:code, stdlib:prose"
    keeps_splits = True
    standard = True

    def _listed(self) -> list[tuple[str, str]]:
        files = python_files(sysconfig.get_path("stdlib"))
        if not files:
            raise self.wrong("this Python's standard library has no .py files; install them, or name text")
        return files

    def read(self, name: str, path: str, bad: BadRecords) -> Iterator[Document]:
        """The file itself, or its module docstring without its indentation. The language reference is prose inside one
        literal: it is no code, and each of its topics is a document.
        """
        if name == TOPICS:
            yield from _topics() if self.target == "prose" else ()
            return
        if self.target == "code":
            yield from super().read(name, path, bad)
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


def python_files(root: str) -> list[tuple[str, str]]:
    """(relative name, path) of every source file below a folder, ordered by name."""
    files = []
    for folder, folders, names in os.walk(root):
        prefix = os.path.join(os.path.relpath(folder, root), "").removeprefix("./")
        folders[:] = [name for name in folders if not _skipped(prefix + name)]
        modules = [name for name in names if name.endswith(".py") and not _skipped(prefix + name)]
        files += [(prefix + name, path) for name in modules if os.path.isfile(path := os.path.join(folder, name))]
    return sorted(files)


def _skipped(name: str) -> bool:
    return name in _SKIPPED_FOLDERS or name.startswith(_SKIPPED_PREFIXES)


def _topics() -> Iterator[Document]:
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise UserError(
            f"stdlib:prose: this Python lacks pydoc_data.topics ({error}); install its whole standard library"
        ) from error
    for title in sorted(topics):
        yield Document(f"topics/{title}", _clean(topics[title]))


def _clean(text: str) -> bytes:
    lines = [line.rstrip() for line in text.strip().splitlines()]
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogatepass")
