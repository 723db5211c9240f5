"""Reading a prepared folder: one stream of all shards of a split, from memory maps or by ranges of bytes.

Legend: R rows, W window + 1.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NotRequired, TypedDict

import numpy as np

from scratchpatch import json_files
from scratchpatch.data import blocks, checks, paths, splits
from scratchpatch.data.records import BadRecords, Document, explain
from scratchpatch.data.stream import Stream
from scratchpatch.errors import UserError
from scratchpatch.json_files import Count
from scratchpatch.vocabulary import BOS

if TYPE_CHECKING:
    from scratchpatch.data.sources import Source

FORMAT = 1
META = "meta.json"
# Bytes that a pass over all documents reads at a time.
_STRETCH = 1 << 22


# By the end of a file's name: its checksum, and its size.
_OfFiles = TypedDict("_OfFiles", {blocks.RECORDS: Count, blocks.STARTS: Count})


class ShardEntry(TypedDict):
    """What meta.json holds of a shard."""

    name: str
    documents: Count
    bytes: Count
    positions: Count
    blocks: Count
    digests: str
    checksums: _OfFiles
    sizes: _OfFiles


class _Split(TypedDict):
    documents: Count
    bytes: Count
    checksum: str
    shards: list[ShardEntry]


class _Counts(TypedDict):
    documents: Count
    bytes: Count
    duplicates: Count
    duplicate_bytes: Count
    skipped: Count
    broken: NotRequired[Count]


_Splits = TypedDict("_Splits", dict.fromkeys(splits.PARTS, _Split))


class _Meta(TypedDict):
    # Of all the rest; older folders have none.
    seal: NotRequired[str]
    plan: dict[str, str]
    counts: _Counts
    bad: list[str]
    splits: _Splits


class _Format(TypedDict):
    format: int
    block: int


def read_meta(folder: str) -> dict | None:
    """What is written about a finished folder; None where it is not finished. Raises UserError where it is damaged."""
    path = paths.join(folder, META)
    try:
        if not paths.is_file(path):
            return None
        form = paths.read_json(path, _Format)
        if form["format"] != FORMAT or form["block"] != blocks.BLOCK:
            raise UserError(f"{path} is of format {form['format']}, not {FORMAT}: prepare the folder anew")
        meta = paths.read_json(path, _Meta)
        if "seal" in meta and sealed(meta) != meta:
            raise ValueError("its seal is wrong")
        for part in meta["splits"].values():
            check_split(folder, part)
    except (OSError, ValueError) as error:
        said = str(error).removeprefix(f"{path}: ")
        raise UserError(f"{path} cannot be read ({said}); prepare the folder anew") from error
    return meta


def sealed(meta: dict) -> dict:
    """The same with its seal."""
    rest = {name: value for name, value in meta.items() if name != "seal"}
    return rest | {"seal": json_files.seal(rest)}


def checksum(shards: list[ShardEntry]) -> str:
    """Of a split, by what its documents hold, whatever their order. Raises ValueError where a shard has none."""
    return f"{sum(int(shard['digests'], 16) for shard in shards) % 2**128:032x}"


def check_split(folder: str, part: dict) -> None:
    """Raise ValueError where a split's numbers disagree, or a shard's name leads out of the folder."""
    for shard in part["shards"]:
        name, positions = shard["name"], shard["positions"]
        if "/" in name:
            raise ValueError(f"{name!r} is no name of a shard")
        for suffix in (blocks.RECORDS, blocks.STARTS):
            paths.below(folder, name + suffix)
        starts = (shard["blocks"] + 1) * blocks.FIRST.itemsize + shard["documents"] * blocks.PLACE.itemsize
        if positions != shard["bytes"] + shard["documents"] or shard["blocks"] != -(-positions // blocks.BLOCK):
            raise ValueError(f"the numbers of {name} disagree")
        if shard["sizes"][blocks.STARTS] != starts or shard["sizes"][blocks.RECORDS] < positions:
            raise ValueError(f"the sizes of {name} are not those of its documents")
    for count in ("documents", "bytes"):
        if part[count] != sum(shard[count] for shard in part["shards"]):
            raise ValueError(f"the {count} of a split are not those of its shards")
    if part["checksum"] != checksum(part["shards"]):
        raise ValueError("the checksum of a split is not that of its shards")


def _finished(spec: str, folder: str) -> dict:
    """What is written about a folder. Raises UserError where it is not finished."""
    meta = read_meta(folder)
    if meta is None:
        raise UserError(f"{spec}: {folder} holds no {META}: run scratchpatch prepare --source=SPEC --out={folder}")
    return meta


def files(spec: str, folder: str) -> list[tuple[str, str]]:
    """(name, path) of the shards of all splits. Raises UserError where the folder is not finished."""
    parts = _finished(spec, folder)["splits"].values()
    names = [shard["name"] + blocks.RECORDS for part in parts for shard in part["shards"]]
    return [(name, paths.below(folder, name)) for name in names]


def read(name: str, path: str, bad: BadRecords) -> Iterator[Document]:
    """The documents of a shard. Of one that cannot be read, all that are left are bad records."""
    folder = path.removesuffix(name).rstrip("/")
    parts = _finished(path, folder)["splits"].values()
    (about,) = (shard for part in parts for shard in part["shards"] if shard["name"] + blocks.RECORDS == name)
    number = 0
    try:
        with tempfile.TemporaryDirectory() as cache:
            shard = Shard(folder, about, Path(cache))
            if not shard.starts_right():
                raise checks.Damaged(f"the checksum of {shard.starts_path} is wrong")
            for number, data in enumerate(shard.documents(), 1):
                yield Document(f"{name}#{number}", data)
    except (OSError, ValueError, IndexError, checks.Damaged) as error:
        bad.add(path, explain(error), records=about["documents"] - number)


def open_stream(source: Source, split: str, cache: Path) -> Stream:
    """The stream of a split; 'all' is train, validation and test one after the other.

    Args:
        source: its target is the folder.
        split: see `splits`.
        cache: where copies of the .starts files go if the folder is a URL.

    Raises:
        UserError: the folder is not finished, files are missing or of another size, or the split is empty.
    """
    folder, meta = source.target, _finished(source.spec, source.target)
    parts = [meta["splits"][name] for name in (splits.PARTS if split == "all" else (split,))]
    shards = [shard for part in parts for shard in part["shards"]]
    if not sum(part["bytes"] for part in parts):
        raise UserError(
            f"{source.spec}: the {split} split is empty, {folder} has {meta['counts']['documents']} document(s); "
            "prepare it with a larger --held_out, or name data.validation_sources"
        )
    check_sizes(folder, shards)
    check = _check(folder, shards, cache)
    checksum = hashlib.blake2b("/".join(part["checksum"] for part in parts).encode(), digest_size=16).hexdigest()
    return PreparedStream(source.spec, split, folder, shards, meta["counts"], checksum, cache, check)


def _check(folder: str, shards: list[dict], cache: Path) -> checks.Check | None:
    """The comparison of a folder of this machine with its checksums (`prepare` reads one behind a URL whole).

    Raises UserError where a file that is read at once is damaged.
    """
    if paths.is_url(folder):
        return None
    opened = [Shard(folder, shard, cache) for shard in shards]
    parts = [checks.Checked(shard.starts_path, about["sizes"][blocks.STARTS], shard.starts_right) for shard, about in zip(opened, shards, strict=True)]
    parts += [checks.Checked(shard.path, about["sizes"][blocks.RECORDS], shard.right) for shard, about in zip(opened, shards, strict=True)]
    named = hashlib.blake2b(repr((folder, shards)).encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    try:
        return checks.Check(parts, cache / "right" / f"{named}.json", lambda path: _damaged(f"the checksum of {path} is wrong"))
    except (checks.Damaged, OSError) as error:
        raise UserError(_damaged(str(error))) from error


def _damaged(what: str) -> str:
    return f"{what}: copy the folder anew, or remove it and prepare it anew"


def check_sizes(folder: str, shards: list[dict]) -> None:
    """Raise UserError unless every file of the shards is there and has its size."""
    try:
        sizes = paths.sizes(folder)
    except OSError as error:
        raise UserError(f"{folder} cannot be listed ({error})") from error
    for shard in shards:
        for suffix, wanted in shard["sizes"].items():
            path, found = paths.join(folder, shard["name"] + suffix), sizes.get(shard["name"] + suffix)
            if found is None:
                raise UserError(f"{path} is missing: prepare the folder anew")
            if found != wanted:
                raise UserError(f"{path} holds {found} bytes instead of {wanted}: prepare the folder anew")


class PreparedStream(Stream):
    """A stream over shards; the same positions, tokens and windows for any number of them."""

    def __init__(
        self,
        spec: str,
        split: str,
        folder: str,
        shards: list[dict],
        counts: dict,
        checksum: str,
        cache: Path,
        check: checks.Check | None = None,
    ):
        """`shards`: their entries in meta.json, in the order of the stream; `counts`: there; `cache`: see `open_stream`."""
        positions = [shard["positions"] for shard in shards]
        documents = sum(shard["documents"] for shard in shards)
        super().__init__(spec, split, sum(positions), documents, counts["skipped"], checksum, counts.get("broken", 0), check)
        self._shards = [Shard(folder, shard, cache / "prepared") for shard in shards]
        self._firsts = [0, *itertools.accumulate(positions)]

    def _fill(self, tokens_RW: np.ndarray, starts_R: list[int]) -> None:
        wanted = []
        for tokens_W, start in zip(tokens_RW, starts_R, strict=True):
            end = min(start + len(tokens_W), len(self))
            at = start
            # A window goes on in the next shard where its own ends.
            while at < end:
                index = bisect.bisect_right(self._firsts, at) - 1
                first, until = self._firsts[index], min(end, self._firsts[index + 1])
                wanted.append(Stretch(self._shards[index], at - first, tokens_W[at - start : until - start]))
                at = until
        if wanted:  # a host may have no rows of a source in a batch
            read_stretches(wanted)
        for shard, start, tokens_W in wanted:
            tokens_W[shard.starts.between(start, start + len(tokens_W)) - start] = BOS

    def key(self) -> str:
        """The checksum is that of the documents, so it knows where they begin."""
        return hashlib.blake2b(f"prepared/{self.checksum}/{self.split}/{len(self)}".encode(), digest_size=12).hexdigest()

    def documents_iter(self) -> Iterator[bytes]:
        for shard in self._shards:
            yield from shard.documents()


class Shard:
    """One shard, its files opened on first use.

    Attributes:
        path: of its blocks.
        starts_path: of its other file.
        positions: of the stream in it.
    """

    def __init__(self, folder: str, about: dict, cache: Path):
        """`about`: its entry in meta.json; `cache`: where a copy of its .starts goes."""
        self.path = paths.below(folder, about["name"] + blocks.RECORDS)
        self.positions = about["positions"]
        self.starts_path = paths.below(folder, about["name"] + blocks.STARTS)
        self._checksums = about["checksums"]
        self._blocks = about["blocks"]
        # Folders may have shards of one name.
        self._cache = cache / "-".join(f"{checksum:08x}" for checksum in about["checksums"].values())

    @functools.cached_property
    def mapped(self) -> np.ndarray:
        """uint8: the file of blocks, in a folder on this machine."""
        return _mapped(self.path)

    @functools.cached_property
    def starts(self) -> blocks.Starts:
        if paths.is_url(self.starts_path) and not self.starts_right():
            Path(paths.fetched(self.starts_path, self._cache)).unlink(missing_ok=True)
            raise UserError(_damaged(f"the checksum of {self.starts_path} is wrong"))
        return blocks.Starts(self._mapped_starts(), self._blocks)

    def _mapped_starts(self) -> np.ndarray:
        return _mapped(paths.fetched(self.starts_path, self._cache))

    def starts_right(self) -> bool:
        """Read the file of starts; whether it is what its checksum says."""
        return zlib.crc32(self._mapped_starts()) == self._checksums[blocks.STARTS]

    def right(self) -> bool:
        """Read the file of blocks, on this machine; whether it is what its checksum says."""
        return blocks.checksum(_mapped(self.path), self._blocks) == self._checksums[blocks.RECORDS]

    def documents(self) -> Iterator[bytes]:
        """The raw bytes of each document, some megabytes read together."""
        edges = np.append(self.starts.between(0, self.positions), self.positions).tolist()
        low = 0
        while low < len(edges) - 1:
            high = max(bisect.bisect_right(edges, edges[low] + _STRETCH) - 1, low + 1)
            data = np.empty(edges[high] - edges[low], np.uint8)
            read_stretches([Stretch(self, edges[low], data)])
            for document in range(low, high):
                yield data[edges[document] + 1 - edges[low] : edges[document + 1] - edges[low]].tobytes()
            low = high


def _mapped(path: str) -> np.ndarray:
    # A plain view of the map: a np.memmap costs more per slice than a window does.
    return np.asarray(np.memmap(path, np.uint8, "r"))


class Stretch(NamedTuple):
    """Positions of a shard from `start` on, and the array [length] that takes them; a BOS is read as 0."""

    shard: Shard
    start: int
    into_W: np.ndarray


def read_stretches(stretches: list[Stretch]) -> None:
    """Fill the arrays; all are of one folder."""
    (_read_ranges if paths.is_url(stretches[0].shard.path) else _read_mapped)(stretches)


def _read_mapped(stretches: list[Stretch]) -> None:
    """Read from memory maps."""
    for shard, start, into_W in stretches:
        data = shard.mapped
        for position, begin, length in blocks.pieces(start, start + len(into_W)):
            into_W[position - start : position - start + length] = data[begin : begin + length]


def _read_ranges(stretches: list[Stretch]) -> None:
    """Read ranges of bytes behind URLs, all in one call: file systems of buckets ask for them at once."""
    spans = [list(blocks.pieces(start, start + len(into_W))) for _, start, into_W in stretches]
    begins, ends = [span[0][1] for span in spans], [span[-1][1] + span[-1][2] for span in spans]
    files = [shard.path for shard, _, _ in stretches]
    found = paths.system(files[0]).cat_ranges(files, begins, ends, on_error="raise")
    for (_, start, into_W), span, data in zip(stretches, spans, found, strict=True):
        raw = np.frombuffer(data, np.uint8)
        for position, begin, length in span:
            at = begin - span[0][1]
            into_W[position - start : position - start + length] = raw[at : at + length]
