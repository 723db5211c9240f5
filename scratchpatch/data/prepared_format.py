"""What lies in a prepared folder, which `scratchpatch prepare` writes and `prepared` reads.

    meta.json                       counts, checksums of all files, and a seal of its own; it is written last
    train-00003-of-00008.bin        one element of the vocabulary's dtype per position; 0 where a BOS stands
    train-00003-of-00008.starts     where each BOS stands: uint32 [pages + 1], how many stand before each page of
                                    65,536 positions, then uint16 [documents], their places within their pages

The shards of a split, one after the other, are one stream. Each shard begins with a BOS. A split's checksum is the sum
of its documents' digests, so it does not depend on the shards.

meta.json holds: format, element (the dtype), plan (names and values that a second attempt compares), counts (documents
and bytes read, duplicates and their bytes, skipped bad records, and broken files, whose last records nobody counted),
bad (the first messages about bad records) and, for every split, its documents, bytes, checksum and shards.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np

from scratchpatch import json_files
from scratchpatch.data import paths, splits
from scratchpatch.errors import UserError
from scratchpatch.json_files import Count
from scratchpatch.vocabulary import BYTES

FORMAT = 2
META, POSITIONS, STARTS = "meta.json", ".bin", ".starts"
# Documents are bytes, so the ids of a prepared folder are bytes.
VOCABULARY = BYTES
PAGE = 1 << 16
_COUNT, _PLACE = np.dtype("<u4"), np.dtype("<u2")

_Checksums = TypedDict("_Checksums", {POSITIONS: Count, STARTS: Count})


class ShardEntry(TypedDict):
    """What meta.json holds about a shard; its checksums are CRC-32."""

    name: str
    documents: Count
    bytes: Count
    digests: str
    checksums: _Checksums


class _Split(TypedDict):
    documents: Count
    bytes: Count
    checksum: str
    shards: list[ShardEntry]


_COUNTS = ("documents", "bytes", "duplicates", "duplicate_bytes", "skipped", "broken")
_Counts = TypedDict("_Counts", dict.fromkeys(_COUNTS, Count))
_Splits = TypedDict("_Splits", dict.fromkeys(splits.SPLITS, _Split))


class _Meta(TypedDict):
    element: str
    plan: dict[str, str]
    counts: _Counts
    bad: list[str]
    splits: _Splits
    seal: str


class _Format(TypedDict):
    format: int


def read_meta(folder: str) -> dict | None:
    """The contents of a finished folder's meta.json; None where the folder is not finished.

    Raises:
        UserError: the file is damaged, or of another format.
    """
    path = paths.join(folder, META)
    try:
        if not paths.is_file(path):
            return None
        written = paths.read_json(path, _Format)["format"]
        if written != FORMAT:
            raise UserError(f"{path} is of format {written}, not {FORMAT}: remove the folder and prepare it anew")
        meta = paths.read_json(path, _Meta)
        if sealed(meta) != meta:
            raise ValueError("its seal is wrong")
        if meta["element"] != VOCABULARY.dtype.name:
            raise ValueError(f"its elements are {meta['element']}, not {VOCABULARY.dtype.name}")
        for entry in meta["splits"].values():
            check_split(folder, entry)
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


def shard_entries(meta: dict) -> list[ShardEntry]:
    """The entries of the shards of all splits."""
    return [shard for split in meta["splits"].values() for shard in split["shards"]]


def new_meta(plan: dict[str, str], counts: dict[str, int], bad: list[str], entries: dict[str, dict]) -> dict:
    """The contents of meta.json; `entries` are those of the splits."""
    meta = {"format": FORMAT, "element": VOCABULARY.dtype.name}
    return sealed(meta | {"plan": plan, "counts": counts, "bad": bad, "splits": entries})


def sealed(meta: dict) -> dict:
    """The same meta with its seal."""
    unsealed = {name: value for name, value in meta.items() if name != "seal"}
    return unsealed | {"seal": json_files.seal(unsealed)}


def checksum(shards: list[ShardEntry]) -> str:
    """The checksum of a split's documents, whatever their order. Raises ValueError where a shard's digests are none."""
    return f"{sum(int(shard['digests'], 16) for shard in shards) % 2**128:032x}"


def check_split(folder: str, split: dict) -> None:
    """Raise ValueError where a split's numbers disagree, or a shard's name leads out of the folder."""
    for shard in split["shards"]:
        if "/" in shard["name"]:
            raise ValueError(f"{shard['name']!r} is no name of a shard")
        for suffix in (POSITIONS, STARTS):
            paths.below(folder, shard["name"] + suffix)
    for count in ("documents", "bytes"):
        if split[count] != sum(shard[count] for shard in split["shards"]):
            raise ValueError(f"the {count} of a split are not those of its shards")
    if split["checksum"] != checksum(split["shards"]):
        raise ValueError("the checksum of a split is not that of its shards")


def check_sizes(folder: str, shards: list[ShardEntry]) -> None:
    """Raise UserError unless every file of the shards is there and has its size."""
    try:
        sizes = paths.sizes(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error})") from error
    for shard in shards:
        for suffix, wanted in file_sizes(shard).items():
            path, size = paths.join(folder, shard["name"] + suffix), sizes.get(shard["name"] + suffix)
            if size is None:
                raise UserError(f"{path} is missing: prepare the folder anew")
            if size != wanted:
                raise UserError(f"{path} holds {size} bytes instead of {wanted}: prepare the folder anew")


def positions(shard: ShardEntry) -> int:
    """How many positions of the stream a shard has."""
    return shard["documents"] + shard["bytes"] // VOCABULARY.bytes_per_token


def file_sizes(shard: ShardEntry) -> dict[str, int]:
    """The bytes of a shard's files, by suffix."""
    pages = -(-positions(shard) // PAGE)
    return {
        POSITIONS: positions(shard) * VOCABULARY.dtype.itemsize,
        STARTS: (pages + 1) * _COUNT.itemsize + shard["documents"] * _PLACE.itemsize,
    }


def pack_starts(starts: np.ndarray, length: int) -> bytes:
    """The .starts file of a shard of `length` positions whose BOS stand at `starts`, int64 [documents]."""
    before = np.searchsorted(starts, np.arange(-(-length // PAGE) + 1) * PAGE)
    return before.astype(_COUNT).tobytes() + (starts % PAGE).astype(_PLACE).tobytes()


class Starts:
    """The BOS positions of a shard, from its .starts file."""

    def __init__(self, file: np.ndarray, length: int):
        """`file` is uint8, the contents of the file; the shard has `length` positions."""
        edge = (-(-length // PAGE) + 1) * _COUNT.itemsize
        self._before, self._places = file[:edge].view(_COUNT), file[edge:].view(_PLACE)

    def between(self, start: int, end: int) -> np.ndarray:
        """int64: the BOS in positions [start, end), which are at least one, in order."""
        pages = range(start // PAGE, -(-end // PAGE))
        starts = np.concatenate([self._page(page) for page in pages]) if len(pages) > 1 else self._page(pages[0])
        low, high = starts.searchsorted((start, end))
        return starts[low:high]

    def _page(self, page: int) -> np.ndarray:
        return self._places[self._before[page] : self._before[page + 1]].astype(np.int64) + page * PAGE
