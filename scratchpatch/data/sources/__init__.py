"""What a SPEC names: its files, and the documents in them. Each kind has a file of its own here.

    stdlib:code                     the source files of this Python's standard library
    stdlib:prose                    its language reference and module docstrings
    text:GLOB                       a document per file
    jsonl:GLOB[#field]              a document per line, in `field`
    parquet:GLOB[#column]           a document per row
    array_record:GLOB               a document per record, byte for byte
    tfds:NAME[@split][#field]       an example of TensorFlow Datasets (see `tfds`); the default split is train
    hf:DIR[@split][#field]          a row of a Hugging Face data set on disk (see `hf`)
    prepared:DIR                    what `scratchpatch prepare` wrote, with its splits

A field or column is "text" where none is named. Where a SPEC may have a field (or split), a # (or @) that belongs to a
name is written twice: the last one that stands alone begins the field, jsonl:c##/lines.jsonl#body. GLOB may hold `**`;
each real file is read once, whatever links lead to it. GLOB and DIR may be URLs (gs://, s3://; see `paths`). Text and
lines are decompressed where their first bytes are gzip's, zstd's, bz2's or xz's.
"""

import difflib
import glob
import os
import re

from scratchpatch.data import paths
from scratchpatch.data.sources.array_record import ArrayRecord
from scratchpatch.data.sources.columns import Parquet
from scratchpatch.data.sources.hf import HuggingFace
from scratchpatch.data.sources.jsonl import JsonLines
from scratchpatch.data.sources.prepared_folder import Prepared
from scratchpatch.data.sources.source import Source
from scratchpatch.data.sources.stdlib import StandardLibrary
from scratchpatch.data.sources.text import Text
from scratchpatch.data.sources.tfds import TensorFlowDatasets
from scratchpatch.errors import UserError

_KINDS: dict[str, type[Source]] = {
    kind.form.partition(":")[0]: kind
    for kind in (StandardLibrary, Text, JsonLines, Parquet, ArrayRecord, TensorFlowDatasets, HuggingFace, Prepared)
}
SPECS = ", ".join(kind.form for kind in _KINDS.values())
_DEFAULT_FIELD = "text"


def parse(spec: str) -> Source:
    """The source that `spec` names. Raises UserError where it names none."""
    kind, target, named = _divided(spec)
    field, split = named.get("#", ""), named.get("@")
    field = _DEFAULT_FIELD if field is None else field
    return kind(spec, target, field, kind.default_split if split is None else split)


def absolute(spec: str) -> str:
    """The same SPEC, meaning the same from every working directory. Raises UserError where it is none."""
    scheme, _, rest = spec.partition(":")
    if scheme == "stdlib" or paths.is_url(rest):
        return spec
    _, text, named = _divided(spec)
    for mark in named:
        text = text.replace(mark, mark * 2)
    for mark in "@#":
        text += "" if named.get(mark) is None else mark + named[mark].replace(mark, mark * 2)
    return f"{scheme}:{text}"


def _divided(spec: str) -> tuple[type[Source], str, dict[str, str | None]]:
    """(kind, absolute target, split after @ and field after #) of a SPEC. A kind without splits or fields has none of
    that mark; None is one that the SPEC does not name. Raises UserError.
    """
    scheme, colon, target = spec.partition(":")
    if not colon or scheme not in _KINDS:
        near = difflib.get_close_matches(scheme, _KINDS, n=1, cutoff=0.0)[0]
        raise UserError(f"source {spec!r} has no known scheme; the nearest is {near}: (a source is one of {SPECS})")
    kind = _KINDS[scheme]
    if kind.standard:
        forms = kind.form.split(", ")
        if spec not in forms:
            near = difflib.get_close_matches(spec, forms, n=1, cutoff=0.0)[0]
            raise UserError(f"source {spec!r} is unknown; the nearest is {near}")
        return kind, target, {}
    named = {}
    for mark in "#@":
        if f"[{mark}" in kind.form:
            target, named[mark] = _divided_at(mark, target)
    if not target or named.get("#") == "":
        raise UserError(f"source {spec!r} lacks its {'field' if target else 'path'}; a source is one of {SPECS}")
    return kind, _anchored(kind, target), named


def _divided_at(mark: str, text: str) -> tuple[str, str | None]:
    """What stands before and after the last mark that stands alone; two of them are one that is part of a name."""
    runs = [run for run in re.finditer(f"{mark}+", text) if len(run[0]) % 2]
    at = runs[-1].end() - 1 if runs else len(text)
    before, after = (side.replace(mark * 2, mark) for side in (text[:at], text[at + 1 :]))
    return before, after if runs else None


def _anchored(kind: type[Source], target: str) -> str:
    """The target with the working directory before it, which is no pattern even where it looks like one."""
    path = paths.absolute(target)
    if kind is TensorFlowDatasets:
        return path if os.path.isdir(path) else target
    relative = not paths.is_url(target) and not os.path.isabs(os.path.expanduser(target))
    if "GLOB" in kind.form and relative and glob.has_magic(os.getcwd()) and not os.path.lexists(path):
        return os.path.normpath(os.path.join(glob.escape(os.getcwd()), target))
    return path
