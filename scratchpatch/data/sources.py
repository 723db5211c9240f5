"""What a SPEC names: its files, and the documents in them.

    stdlib:code                     the source files of this Python's standard library
    stdlib:prose                    its language reference and module docstrings
    text:GLOB                       a document per file
    jsonl:GLOB[#field]              a document per line, in `field`
    parquet:GLOB[#column]           a document per row
    array_record:GLOB               a document per record, byte for byte
    tfds:NAME[@split][#field]       an example of TensorFlow Datasets (see `tfds`); the split is train where none is named
    hf:DIR[@split][#field]          a row of a Hugging Face data set on disk (see `hf`)
    prepared:DIR                    what `scratchpatch prepare` wrote, with its splits

A field or column is "text" where none is named. Where a SPEC may have a field
(or split), a # (or @) that belongs to a name is written twice: the last one
that stands alone begins the field, jsonl:c##/lines.jsonl#body. GLOB may hold `**`; each real file is read once, whatever links lead to it. GLOB
and DIR may be URLs (gs://, s3://; see `paths`). Text and lines are decompressed
where their first bytes are gzip's, zstd's, bz2's or xz's.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import glob
import os
import re
from collections.abc import Iterator

from scratchpatch.data import array_records, columns, hf, paths, prepared, stdlib, tfds
from scratchpatch.data.records import BadRecords, Document, read_jsonl, read_text
from scratchpatch.errors import UserError

# By scheme: what follows the colon.
FORMS = {
    "stdlib": "stdlib:code, stdlib:prose",
    "text": "text:GLOB",
    "jsonl": "jsonl:GLOB[#field]",
    "parquet": "parquet:GLOB[#column]",
    "array_record": "array_record:GLOB",
    "tfds": "tfds:NAME[@split][#field]",
    "hf": "hf:DIR[@split][#field]",
    "prepared": "prepared:DIR",
}
SPECS = ", ".join(FORMS.values())
DEFAULT_FIELD = "text"
_WITH_GLOB = ("text", "jsonl", "parquet", "array_record")
_WITH_FIELD = ("jsonl", "parquet", "tfds", "hf")
_WITH_SPLIT = {"tfds": tfds.DEFAULT_SPLIT, "hf": ""}


@dataclasses.dataclass(frozen=True)
class Source:
    """A parsed SPEC.

    Attributes:
        spec: as the user wrote it.
        scheme: one of FORMS.
        target: 'code' or 'prose' of stdlib, the name (or absolute folder) of tfds, else the absolute glob or folder.
        field: of the JSON object, row or example; empty for schemes without one.
        split: of the data set; empty for schemes without one.
    """

    spec: str
    scheme: str
    target: str
    field: str = ""
    split: str = ""

    @property
    def identity(self) -> tuple[str, ...]:
        """Equal for two spellings of one source."""
        return self.scheme, self.target, self.field, *filter(None, [self.split])

    @property
    def standard(self) -> bool:
        """Whether it is the standard library, whose splits never merge."""
        return self.scheme == "stdlib"

    @property
    def keeps_splits(self) -> bool:
        """Whether its splits are its own, whatever else a config validates on."""
        return self.scheme in ("stdlib", "prepared")

    def files(self) -> list[tuple[str, str]]:
        """(name, path) of every file, in a fixed order. Raises UserError where there is none, or one that is no regular file."""
        found = self._files()
        for _, path in found:
            what = paths.irregular(path)
            if what:
                raise UserError(f"{self.spec}: {path} is {what}, and only regular files are read: leave it out of the source")
        return found

    def _files(self) -> list[tuple[str, str]]:
        """(name, path) of every file, in a fixed order. Raises UserError where there is none."""
        if self.scheme == "tfds":
            return tfds.files(self.spec, self.target, self.split)
        if self.scheme == "hf":
            if not paths.is_folder(self.target):
                raise UserError(
                    f"{self.spec}: no such folder as {self.target}; hf: names one that save_to_disk wrote, or a snapshot with "
                    f"parquet files{doubled(self.scheme, self.spec)}"
                )
            return hf.files(self.spec, self.target, self.split)
        if self.scheme == "prepared":
            return prepared.files(self.spec, self.target)
        try:
            found = stdlib.files() if self.standard else _glob(self.target)
        except OSError as error:
            raise UserError(f"{self.spec}: cannot be listed ({error})") from error
        if found:
            return found
        if self.standard:
            raise UserError(f"{self.spec}: this Python's standard library has no .py files; install them, or name text")
        if paths.is_folder(self.target):
            raise UserError(f"{self.spec}: {self.target} is a folder; name the files in it, such as {self.target}/**")
        raise UserError(f"{self.spec}: no file matches {self.target}; check the path and the pattern{doubled(self.scheme, self.spec)}")

    def documents(self, files: list[tuple[str, str]], bad: BadRecords) -> Iterator[Document]:
        """The documents of `files`, read one at a time. Raises UserError as `bad` says."""
        read = {
            ("stdlib", "code"): stdlib.read_code,
            ("stdlib", "prose"): stdlib.read_prose,
            ("text", ""): read_text,
            ("jsonl", ""): functools.partial(read_jsonl, field=self.field),
            ("parquet", ""): functools.partial(columns.read_parquet, field=self.field),
            ("array_record", ""): array_records.read_array_record,
            ("tfds", ""): functools.partial(tfds.read, field=self.field, split=self.split),
            ("prepared", ""): prepared.read,
            ("hf", ""): functools.partial(_read_hf, field=self.field),
        }[self.scheme, self.target if self.standard else ""]
        for name, path in files:
            yield from read(name, path, bad=bad)


def doubled(scheme: str, spec: str) -> str:
    """How to write the marks in a name, for an error about a SPEC that holds one."""
    marks = [mark for mark, schemes in (("#", _WITH_FIELD), ("@", _WITH_SPLIT)) if scheme in schemes and mark in spec]
    return f" (a {' or '.join(marks)} that is part of a name is written twice)" if marks else ""


def _read_hf(name: str, path: str, field: str, bad: BadRecords) -> Iterator[Document]:
    read = columns.read_arrow if path.endswith(".arrow") else columns.read_parquet
    return read(name, path, field, bad)


def parse(spec: str) -> Source:
    """The source that `spec` names. Raises UserError where it names none."""
    scheme, colon, rest = spec.partition(":")
    if not colon or scheme not in FORMS:
        near = difflib.get_close_matches(scheme, FORMS, n=1, cutoff=0.0)[0]
        raise UserError(f"source {spec!r} has no known scheme; the nearest is {near}: (a source is one of {SPECS})")
    if scheme == "stdlib":
        if rest not in stdlib.KINDS:
            near = difflib.get_close_matches(rest, stdlib.KINDS, n=1, cutoff=0.0)[0]
            raise UserError(f"source {spec!r} is unknown; the nearest is stdlib:{near}")
        return Source(spec, scheme, rest)
    target, split, field = _divide(scheme, rest)
    if not target or field == "":
        raise UserError(f"source {spec!r} lacks its {'field' if target else 'path'}; a source is one of {SPECS}")
    if split is None:
        split = _WITH_SPLIT.get(scheme, "")
    if field is None:
        field = DEFAULT_FIELD if scheme in _WITH_FIELD else ""
    return Source(spec, scheme, _anchored(scheme, target), field, split)


def absolute(spec: str) -> str:
    """The same SPEC, meaning the same from every working directory. Raises UserError where it is none."""
    scheme, _, rest = spec.partition(":")
    if scheme == "stdlib" or paths.is_url(rest):
        return spec
    text = parse(spec).target
    _, *named = _divide(scheme, rest)
    for mark, schemes in (("@", _WITH_SPLIT), ("#", _WITH_FIELD)):
        text = text.replace(mark, mark * 2) if scheme in schemes else text
    for mark, name in zip("@#", named, strict=True):
        text += "" if name is None else mark + name.replace(mark, mark * 2)
    return f"{scheme}:{text}"


def _divide(scheme: str, rest: str) -> tuple[str, str | None, str | None]:
    """(target, split, field) of what follows the colon; None where none is named."""
    split = field = None
    if scheme in _WITH_FIELD:
        rest, field = _divide_at("#", rest)
    if scheme in _WITH_SPLIT:
        rest, split = _divide_at("@", rest)
    return rest, split, field


def _divide_at(mark: str, text: str) -> tuple[str, str | None]:
    """What stands before and after the last mark that stands alone; two of them are one that is part of a name."""
    runs = [run for run in re.finditer(f"{mark}+", text) if len(run[0]) % 2]
    at = runs[-1].end() - 1 if runs else len(text)
    before, after = (part.replace(mark * 2, mark) for part in (text[:at], text[at + 1 :]))
    return before, after if runs else None


def _anchored(scheme: str, target: str) -> str:
    """The target with the working directory before it, which is no pattern even where it looks like one."""
    found = paths.absolute(target)
    if scheme == "tfds":
        return found if os.path.isdir(found) else target
    below_here = scheme in _WITH_GLOB and not paths.is_url(target) and not os.path.isabs(os.path.expanduser(target))
    if not below_here or os.path.lexists(found) or not glob.has_magic(os.getcwd()):
        return found
    return os.path.normpath(os.path.join(glob.escape(os.getcwd()), target))


def _glob(pattern: str) -> list[tuple[str, str]]:
    """Files of the pattern, named by their path below its part without wildcards."""
    if paths.is_file(pattern):
        return [(os.path.basename(pattern), pattern)]
    base = pattern
    while glob.has_magic(base) or base == pattern:
        base = os.path.dirname(base)
    return [(path.removeprefix(base).lstrip("/").replace(os.sep, "/"), path) for path in paths.distinct(paths.glob(pattern))]
