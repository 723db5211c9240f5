"""What a SPEC names: its files, and the documents in them.

    stdlib:code            the source files of this Python's standard library
    stdlib:prose           its language reference and module docstrings
    text:GLOB              a document per file
    jsonl:GLOB[#field]     a document per line, in `field` (default "text")

GLOB may hold `**`; files whose name ends in .gz are decompressed.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import glob
import os
from collections.abc import Iterator

from scratchpatch.data import stdlib
from scratchpatch.data.records import BadRecords, Document, read_jsonl, read_text
from scratchpatch.errors import UserError

SCHEMES = ("stdlib", "text", "jsonl")
FORMS = "stdlib:code, stdlib:prose, text:GLOB, jsonl:GLOB[#field]"
DEFAULT_FIELD = "text"


@dataclasses.dataclass(frozen=True)
class Source:
    """A parsed SPEC.

    Attributes:
        spec: as the user wrote it.
        scheme: one of SCHEMES.
        target: 'code' or 'prose' of stdlib, else the absolute glob.
        field: of the JSON object; empty unless the scheme is jsonl.
    """

    spec: str
    scheme: str
    target: str
    field: str = ""

    @property
    def identity(self) -> tuple[str, str, str]:
        """Equal for two spellings of one source."""
        return self.scheme, self.target, self.field

    @property
    def standard(self) -> bool:
        """Whether it is the standard library, whose splits never merge."""
        return self.scheme == "stdlib"

    def files(self) -> list[tuple[str, str]]:
        """(name, path) of every file, in a fixed order. Raises UserError where there is none."""
        found = stdlib.files() if self.standard else _glob(self.target)
        if found:
            return found
        if self.standard:
            raise UserError(f"{self.spec}: this Python's standard library has no .py files; install them, or name text")
        if os.path.isdir(self.target):
            raise UserError(f"{self.spec}: {self.target} is a folder; name the files in it, such as {self.target}/**")
        raise UserError(f"{self.spec}: no file matches {self.target}; check the path and the pattern")

    def documents(self, files: list[tuple[str, str]], bad: BadRecords) -> Iterator[Document]:
        """The documents of `files`, read one at a time. Raises UserError as `bad` says."""
        read = {
            ("stdlib", "code"): stdlib.read_code,
            ("stdlib", "prose"): stdlib.read_prose,
            ("text", ""): read_text,
            ("jsonl", ""): functools.partial(read_jsonl, field=self.field),
        }[self.scheme, self.target if self.standard else ""]
        for name, path in files:
            yield from read(name, path, bad=bad)


def parse(spec: str) -> Source:
    """The source that `spec` names. Raises UserError where it names none."""
    scheme, colon, rest = spec.partition(":")
    if not colon or scheme not in SCHEMES:
        near = difflib.get_close_matches(scheme, SCHEMES, n=1, cutoff=0.0)[0]
        raise UserError(f"source {spec!r} has no known scheme; the nearest is {near}: (a source is one of {FORMS})")
    if scheme == "stdlib":
        if rest not in stdlib.KINDS:
            near = difflib.get_close_matches(rest, stdlib.KINDS, n=1, cutoff=0.0)[0]
            raise UserError(f"source {spec!r} is unknown; the nearest is stdlib:{near}")
        return Source(spec, scheme, rest)
    pattern, hash_sign, field = rest.rpartition("#") if scheme == "jsonl" else (rest, "", DEFAULT_FIELD)
    if not hash_sign:
        pattern, field = rest, DEFAULT_FIELD
    if not pattern or not field:
        raise UserError(f"source {spec!r} lacks its {'field' if pattern else 'path'}; a source is one of {FORMS}")
    return Source(spec, scheme, os.path.abspath(os.path.expanduser(pattern)), field if scheme == "jsonl" else "")


def _glob(pattern: str) -> list[tuple[str, str]]:
    """Files of the pattern, named by their path below its part without wildcards."""
    if os.path.isfile(pattern):
        return [(os.path.basename(pattern), pattern)]
    base = pattern
    while glob.has_magic(base) or base == pattern:
        base = os.path.dirname(base)
    paths = sorted(p for p in glob.glob(pattern, recursive=True) if not os.path.isdir(p))
    return [(os.path.relpath(path, base).replace(os.sep, "/"), path) for path in paths]
