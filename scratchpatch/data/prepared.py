"""Reading a prepared folder, which `scratchpatch prepare` writes.

    meta.json                           counts, checksums of all files, and a seal of its own; it is written last
    train-00003-of-00008.bin, .starts   a shard, see `shards`
    tokenizer.json                      of a folder of tokens: a copy of the tokenizer

The shards of a split, one after the other, are one stream. Its checksum does not depend on them: it is the sum of the
documents' digests.

meta.json holds: format, element (the dtype of a position), of tokens tokenizer (the digest of that copy), plan (names
and values that a second attempt compares), counts (documents and bytes read, duplicates and their bytes, skipped bad
records, and broken files, whose last records nobody counted), bad (the first messages about bad records) and splits
(the entries of each one's shards).
"""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, NotRequired, TypedDict

import msgspec

from scratchpatch import config_file, files
from scratchpatch.data import paths, shards as shard_files, splits
from scratchpatch.data.checks import Damaged
from scratchpatch.data.shards import FIX, Shard, ShardEntry
from scratchpatch.data.stream import Stream
from scratchpatch.data.tokenizer import Tokenizer, vocabulary
from scratchpatch.errors import UserError
from scratchpatch.json_files import Count
from scratchpatch.vocabulary import BYTES

FORMAT, META = 2, "meta.json"


class PreparedEntry(ShardEntry):
    """What meta.json holds about a shard; `digests` is the sum of its documents' digests, in hexadecimal digits."""

    name: Annotated[str, msgspec.Meta(pattern="^[a-z]+-[0-9]+-of-[0-9]+$")]
    digests: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]


_COUNTS = ("documents", "bytes", "duplicates", "duplicate_bytes", "skipped", "broken")
_Counts = TypedDict("_Counts", dict.fromkeys(_COUNTS, Count))
_Splits = TypedDict("_Splits", dict.fromkeys(splits.SPLITS, list[PreparedEntry]))


class _Meta(TypedDict):
    element: str
    plan: dict[str, str]
    counts: _Counts
    bad: list[str]
    splits: _Splits
    tokenizer: NotRequired[str]
    seal: str


class _Format(TypedDict):
    format: int


def new_meta(
    plan: dict[str, str],
    counts: dict[str, int],
    bad: list[str],
    entries: dict[str, list],
    tokenizer: Tokenizer | None = None,
) -> dict:
    """The contents of meta.json; `entries` are those of the shards of each split."""
    meta = {"format": FORMAT, "element": vocabulary(tokenizer).dtype.name}
    if tokenizer is not None:
        meta["tokenizer"] = tokenizer.checksum
    return shard_files.sealed(meta | {"plan": plan, "counts": counts, "bad": bad, "splits": entries})


def read_meta(folder: str) -> dict | None:
    """The contents of a finished folder's meta.json; None where the folder is not finished. Raises UserError where the
    file is damaged, or of another format.
    """
    path = paths.join(folder, META)
    try:
        if not paths.is_file(path):
            return None
        written = paths.read_json(path, _Format)["format"]
        if written != FORMAT:
            raise UserError(f"{path} is of format {written}, not {FORMAT}: remove the folder and prepare it anew")
        meta = paths.read_json(path, _Meta)
        if shard_files.sealed(meta) != meta:
            raise ValueError("its seal is wrong")
        if "tokenizer" not in meta and meta["element"] != BYTES.dtype.name:
            raise ValueError(f"its elements are {meta['element']}, not {BYTES.dtype.name}")
        for entry in entries_of(meta):
            Shard(folder, entry)  # its files are no links
    except (OSError, ValueError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        raise UserError(f"{path} cannot be read ({reason}); prepare the folder anew") from error
    return meta


def finished_meta(spec: str, folder: str) -> dict:
    """As `read_meta`. Raises UserError also where the folder is not finished."""
    meta = read_meta(folder)
    if meta is None:
        raise UserError(f"{spec}: {folder} holds no {META}: run scratchpatch prepare --source=SPEC --out={folder}")
    return meta


def entries_of(meta: dict) -> list[PreparedEntry]:
    """The entries of the shards of all splits."""
    return [entry for entries in meta["splits"].values() for entry in entries]


@contextlib.contextmanager
def damage_named() -> Iterator[None]:
    """Raise UserError, which says what to do, where a folder is damaged."""
    try:
        yield
    except (OSError, Damaged) as error:
        raise UserError(f"{error}: {FIX}") from error


def open_stream(spec: str, folder: str, split: str, cache: Path, tokenizer: Tokenizer | None = None) -> Stream:
    """The stream of a split of a folder, or of the URL of one; 'all' is train, validation and test in this order.

    `spec` is the source as the user wrote it. Copies of the .starts files behind a URL go to `cache`. Raises UserError
    where the folder is not finished, has no tokens of this tokenizer (or, without one, tokens), files are missing,
    damaged or of another size, or the split is empty.
    """
    meta = finished_meta(spec, folder)
    check_tokenizer(spec, folder, meta, tokenizer)
    chosen = [meta["splits"][name] for name in (splits.SPLITS if split == "all" else (split,))]
    entries = [entry for each in chosen for entry in each]
    if not sum(entry["bytes"] for entry in entries):
        raise UserError(
            f"{spec}: the {split} split is empty, {folder} has {meta['counts']['documents']} document(s); "
            "prepare it with a larger --held_out, or name data.validation_sources"
        )
    shards, check = [Shard(folder, entry, cache / "prepared", tokenizer) for entry in entries], None
    key = hashlib.blake2b(repr((folder, entries)).encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    with damage_named():
        shard_files.check_files(folder, entries, shards[0].vocabulary)
        if not paths.is_url(folder):  # `prepare` compares a folder behind a URL
            marker = cache / "right" / f"{key}.json"
            check = shard_files.comparison(shards, marker, lambda path: f"the checksum of {path} is wrong: {FIX}")
    # The documents' digests are those of their bytes.
    by = [] if tokenizer is None else [tokenizer.checksum]
    checksum = files.digest("/".join([*map(_checksum, chosen), *by]).encode())
    return PreparedStream(spec, split, shards, checksum, meta["counts"]["skipped"], meta["counts"]["broken"], check)


def check_tokenizer(spec: str, folder: str, meta: dict, tokenizer: Tokenizer | None) -> None:
    """Raise UserError unless a folder has bytes, or tokens of this tokenizer."""
    stored, wanted = meta.get("tokenizer"), tokenizer and tokenizer.checksum
    if stored == wanted:
        return
    own = paths.join(folder, config_file.TOKENIZER)
    if not stored:
        fix = f"prepare its source anew with --tokenizer={tokenizer.name}"
        raise UserError(f"{spec}: {folder} holds bytes, and data.tokenizer wants tokens: {fix}")
    if not wanted:
        raise UserError(f"{spec}: {folder} holds tokens, not bytes: set data.tokenizer = {own!r} and data.vocabulary")
    raise UserError(f"{spec}: {folder} holds tokens of another tokenizer than {tokenizer.name}: set it to {own}")


def _checksum(entries: list[PreparedEntry]) -> str:
    """The checksum of a split's documents, whatever their order."""
    return f"{sum(int(entry['digests'], 16) for entry in entries) % 2**128:032x}"


class PreparedStream(Stream):
    """The stream of a split of a prepared folder."""

    def key(self) -> str:
        """The checksum is that of the documents, so it knows where they begin."""
        text = f"prepared/{self.checksum}/{self.split}/{len(self)}"
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
