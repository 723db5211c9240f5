"""Reading a prepared folder: the shards of a split as one stream, from memory maps or by ranges of bytes behind a URL.

Legend: R rows, W window + 1.
"""

from __future__ import annotations

import bisect
import functools
import hashlib
import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from scratchpatch.data import paths, splits
from scratchpatch.data import prepared_format as on_disk
from scratchpatch.data.checks import Check, Checked, Damaged
from scratchpatch.data.prepared_format import POSITIONS, STARTS, VOCABULARY, ShardEntry
from scratchpatch.data.stream import Stream
from scratchpatch.errors import UserError
from scratchpatch.files import size_and_checksum

# Positions that a pass over all documents reads at a time.
_CHUNK = 1 << 22


def files(spec: str, folder: str) -> list[tuple[str, str]]:
    """(name, path) of the shards of all splits. Raises UserError where the folder is not finished."""
    names = [shard["name"] + POSITIONS for shard in on_disk.shard_entries(on_disk.finished_meta(spec, folder))]
    return [(name, paths.below(folder, name)) for name in names]


def shard_documents(name: str, path: str) -> tuple[int, Iterator[bytes]]:
    """How many documents a shard of `files` has, and the raw bytes of each.

    Raises:
        UserError: the folder is not finished.
        OSError, ValueError, Damaged: the iterator raises these where the shard cannot be read.
    """
    folder = path.removesuffix(name).rstrip("/")
    entries = on_disk.shard_entries(on_disk.finished_meta(path, folder))
    (entry,) = (shard for shard in entries if shard["name"] + POSITIONS == name)
    return entry["documents"], _shard_documents(folder, entry)


def _shard_documents(folder: str, entry: ShardEntry) -> Iterator[bytes]:
    with tempfile.TemporaryDirectory() as cache:
        shard = Shard(folder, entry, Path(cache))
        if not shard.starts_are_right():
            raise Damaged(f"the checksum of {shard.starts_path} is wrong")
        yield from shard.documents()


def open_stream(spec: str, folder: str, split: str, cache: Path) -> Stream:
    """The stream of a split; 'all' is train, validation and test one after the other.

    Args:
        spec: the source, as the user wrote it.
        folder: the prepared folder, or its URL.
        split: see `splits`.
        cache: where copies of the .starts files go if the folder is a URL.

    Raises:
        UserError: the folder is not finished, files are missing, damaged or of another size, or the split is empty.
    """
    meta = on_disk.finished_meta(spec, folder)
    chosen = [meta["splits"][name] for name in (splits.SPLITS if split == "all" else (split,))]
    entries = [shard for each in chosen for shard in each["shards"]]
    if not sum(each["bytes"] for each in chosen):
        raise UserError(
            f"{spec}: the {split} split is empty, {folder} has {meta['counts']['documents']} document(s); "
            "prepare it with a larger --held_out, or name data.validation_sources"
        )
    on_disk.check_sizes(folder, entries)
    check = _check(folder, entries, cache)
    checksum = hashlib.blake2b("/".join(each["checksum"] for each in chosen).encode(), digest_size=16).hexdigest()
    shards = [Shard(folder, entry, cache / "prepared") for entry in entries]
    return PreparedStream(spec, split, shards, meta["counts"], checksum, check)


def _check(folder: str, entries: list[ShardEntry], cache: Path) -> Check | None:
    """The comparison of a folder of this machine with its checksums (`prepare` reads one behind a URL whole).

    Raises UserError where a file that is read at once is damaged.
    """
    if paths.is_url(folder):
        return None
    shards = [(Shard(folder, entry, cache), on_disk.file_sizes(entry)) for entry in entries]
    checked = [Checked(shard.starts_path, sizes[STARTS], shard.starts_are_right) for shard, sizes in shards]
    checked += [Checked(shard.path, sizes[POSITIONS], shard.positions_are_right) for shard, sizes in shards]
    key = hashlib.blake2b(repr((folder, entries)).encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    marker = cache / "right" / f"{key}.json"
    try:
        return Check(checked, marker, lambda path: _damaged(f"the checksum of {path} is wrong"))
    except (Damaged, OSError) as error:
        raise UserError(_damaged(str(error))) from error


def _damaged(problem: str) -> str:
    return f"{problem}: copy the folder anew, or remove it and prepare it anew"


class PreparedStream(Stream):
    """A stream over shards; its positions, tokens and windows are the same for any number of shards."""

    def __init__(
        self, spec: str, split: str, shards: list[Shard], counts: dict, checksum: str, check: Check | None = None
    ):
        """`shards` are in the order of the stream; `counts` are those of meta.json."""
        self._shards = shards
        # Where each shard begins in the stream, and where the last one ends.
        self._edges = [0, *itertools.accumulate(shard.length for shard in shards)]
        documents = sum(shard.document_count for shard in shards)
        super().__init__(
            spec, split, self._edges[-1], documents, counts["skipped"], checksum, counts["broken"], check, VOCABULARY
        )

    def _fill(self, tokens_RW: np.ndarray, starts_R: list[int]) -> None:
        stretches = []
        for tokens_W, start in zip(tokens_RW, starts_R, strict=True):
            position, end = start, min(start + len(tokens_W), len(self))
            # A window goes on in the next shard where its own ends.
            while position < end:
                shard = bisect.bisect_right(self._edges, position) - 1
                low, high = self._edges[shard], min(end, self._edges[shard + 1])
                into_W = tokens_W[position - start : high - start]
                stretches.append(Stretch(self._shards[shard], position - low, into_W))
                position = high
        _read(stretches)
        for shard, start, tokens_W in stretches:
            tokens_W[shard.starts.between(start, start + len(tokens_W)) - start] = self.vocabulary.bos

    def key(self) -> str:
        """The checksum is that of the documents, so it knows where they begin."""
        text = f"prepared/{self.checksum}/{self.split}/{len(self)}"
        return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()

    def documents_iter(self) -> Iterator[bytes]:
        for shard in self._shards:
            yield from shard.documents()


class Shard:
    """One shard, whose files are opened on first use.

    Attributes:
        path: of the file of positions.
        starts_path: of the file that says where the BOS stand.
        length: in positions of the stream.
        document_count: how many documents it holds.
    """

    def __init__(self, folder: str, entry: ShardEntry, cache: Path):
        """`entry` is its entry in meta.json; a copy of its .starts goes to `cache`."""
        self.path = paths.below(folder, entry["name"] + POSITIONS)
        self.starts_path = paths.below(folder, entry["name"] + STARTS)
        self.length, self.document_count = on_disk.positions(entry), entry["documents"]
        self._checksums = entry["checksums"]
        # Several folders may have shards of one name, so the name of the copy holds the checksums.
        self._cache = cache / "-".join(f"{checksum:08x}" for checksum in self._checksums.values())

    @functools.cached_property
    def mapped(self) -> np.ndarray:
        """The positions, as a memory map of a file on this machine."""
        # A plain view of the map, because slicing a np.memmap costs more than copying a window does.
        return np.asarray(np.memmap(self.path, VOCABULARY.dtype, "r"))

    @functools.cached_property
    def starts(self) -> on_disk.Starts:
        """Where the BOS stand. Raises UserError where a copy from a URL is damaged."""
        if paths.is_url(self.starts_path) and not self.starts_are_right():
            Path(self._local_starts()).unlink(missing_ok=True)
            raise UserError(_damaged(f"the checksum of {self.starts_path} is wrong"))
        return on_disk.Starts(np.asarray(np.memmap(self._local_starts(), np.uint8, "r")), self.length)

    def _local_starts(self) -> str:
        return paths.fetched(self.starts_path, self._cache)

    def starts_are_right(self) -> bool:
        """Read the .starts file; return whether it has its checksum."""
        return file_checksum(self._local_starts()) == self._checksums[STARTS]

    def positions_are_right(self) -> bool:
        """Read the file of positions; return whether it has its checksum."""
        return file_checksum(self.path) == self._checksums[POSITIONS]

    def documents(self) -> Iterator[bytes]:
        """The raw bytes of each document, read several megabytes at a time."""
        edges = np.append(self.starts.between(0, self.length), self.length).tolist()
        low = 0
        while low < len(edges) - 1:
            high = max(bisect.bisect_right(edges, edges[low] + _CHUNK) - 1, low + 1)
            chunk = np.empty(edges[high] - edges[low], VOCABULARY.dtype)
            _read([Stretch(self, edges[low], chunk)])
            for start, end in itertools.pairwise(edges[low : high + 1]):
                yield chunk[start + 1 - edges[low] : end - edges[low]].tobytes()
            low = high


def file_checksum(path: str) -> int:
    """The CRC-32 of a file of this machine, or behind a URL. Raises OSError."""
    with paths.open_read(path) as file:
        return size_and_checksum(file)[1]


class Stretch(NamedTuple):
    """Positions of a shard from `start` on, and the array [length] that they are read into; a BOS is read as 0."""

    shard: Shard
    start: int
    into_W: np.ndarray


def _read(stretches: list[Stretch]) -> None:
    """Fill the arrays of stretches of one folder; a host that has no rows of a source in a batch has none."""
    if stretches and paths.is_url(stretches[0].shard.path):
        # File systems of buckets ask for all ranges of one call at once.
        size, names = VOCABULARY.dtype.itemsize, [stretch.shard.path for stretch in stretches]
        begins = [start * size for _, start, _ in stretches]
        ends = [(start + len(into_W)) * size for _, start, into_W in stretches]
        ranges = paths.system(names[0]).cat_ranges(names, begins, ends, on_error="raise")
        pieces = [np.frombuffer(data, VOCABULARY.dtype) for data in ranges]
    else:
        pieces = [shard.mapped[start : start + len(into_W)] for shard, start, into_W in stretches]
    for (_, _, into_W), piece in zip(stretches, pieces, strict=True):
        into_W[:] = piece
