"""The files of a shard, which is a part of a stream: a split of an index, or one of many of a prepared folder.

    NAME.bin      one element of the vocabulary's dtype per position: a byte or a token; 0 where a BOS stands
    NAME.starts   where each BOS stands: uint32 [pages + 1], how many stand before each page of 65,536 positions; then
                  uint16 [documents], their places within their pages

A shard begins with a BOS. What else is known about it, its entry, stands in the meta.json beside it.
"""

from __future__ import annotations

import bisect
import functools
import os
import zlib
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, NotRequired, TypedDict

import numpy as np

from scratchpatch import json_files
from scratchpatch.data import paths
from scratchpatch.data.checks import Check, Checked, Damaged
from scratchpatch.data.tokenizer import Tokenizer, vocabulary as vocabulary_of
from scratchpatch.errors import UserError
from scratchpatch.json_files import Count
from scratchpatch.vocabulary import BYTES, Vocabulary

POSITIONS, STARTS = ".bin", ".starts"
PAGE = 1 << 16
FIX = "copy the folder anew, or remove it and prepare it anew"
_COUNT, _PLACE = np.dtype("<u4"), np.dtype("<u2")
# Positions that a pass over all documents reads at a time.
_CHUNK = 1 << 22

_Checksums = TypedDict("_Checksums", {POSITIONS: Count, STARTS: Count})


class ShardEntry(TypedDict):
    """What a meta.json holds about a shard; the checksums are CRC-32."""

    name: str
    documents: Count
    bytes: Count  # of the documents
    tokens: NotRequired[Count]  # of the documents, where ids of text are tokens
    checksums: _Checksums


def sealed(meta: dict) -> dict:
    """The contents of a meta.json with their seal, a checksum of all the rest."""
    unsealed = {name: value for name, value in meta.items() if name != "seal"}
    return unsealed | {"seal": json_files.seal(unsealed)}


def file_sizes(entry: ShardEntry, vocabulary: Vocabulary = BYTES) -> dict[str, int]:
    """The bytes of a shard's files, by suffix."""
    starts = (_pages(_length(entry)) + 1) * _COUNT.itemsize + entry["documents"] * _PLACE.itemsize
    return {POSITIONS: _length(entry) * vocabulary.dtype.itemsize, STARTS: starts}


def check_files(folder: str, entries: list[ShardEntry], vocabulary: Vocabulary = BYTES) -> None:
    """Raise Damaged unless every file of the shards is there and has its size; OSError where that cannot be seen."""
    sizes = paths.sizes(folder)
    for entry in entries:
        for suffix, wanted in file_sizes(entry, vocabulary).items():
            path, size = paths.join(folder, entry["name"] + suffix), sizes.get(entry["name"] + suffix)
            if size is None:
                raise Damaged(f"{path} is missing")
            if size != wanted:
                raise Damaged(f"{path} holds {size} bytes instead of {wanted}")


def comparison(shards: list[Shard], marker: Path, message: Callable[[str], str]) -> Check:
    """The comparison of shards on this machine with their checksums; see `checks.Check`, also for what it raises."""
    files = [(shard, suffix) for suffix in (STARTS, POSITIONS) for shard in shards]
    checked = [
        Checked(shard.paths[suffix], shard.sizes[suffix], functools.partial(shard.is_right, suffix))
        for shard, suffix in files
    ]
    return Check(checked, marker, message)


class Shard:
    """One shard, whose files are opened on first use; `paths` and `sizes` (in bytes) of its files are by suffix, and
    its `length` is in positions of the stream. `bytes` are those of its documents.
    """

    def __init__(
        self, folder: str, entry: ShardEntry, cache: Path | None = None, tokenizer: Tokenizer | None = None
    ):
        """`cache` takes a copy of the .starts file of a folder behind a URL. Raises ValueError as `paths.below`."""
        self._tokenizer = tokenizer
        self.vocabulary = vocabulary_of(tokenizer)
        self.sizes = file_sizes(entry, self.vocabulary)
        self.paths = {suffix: paths.below(folder, entry["name"] + suffix) for suffix in self.sizes}
        self.length, self.document_count, self.bytes = _length(entry), entry["documents"], entry["bytes"]
        self._checksums = entry["checksums"]
        # Several folders may have shards of one name, so the name of the copy holds the checksums.
        self._cache = cache and cache / "-".join(f"{checksum:08x}" for checksum in self._checksums.values())

    @functools.cached_property
    def mapped(self) -> np.ndarray:
        """The positions, as a memory map of a file on this machine."""
        return _mapped(self.paths[POSITIONS], self.vocabulary.dtype)

    @functools.cached_property
    def _starts(self) -> tuple[np.ndarray, np.ndarray]:
        """How many BOS stand before each page, and their places within their pages."""
        path = self.paths[STARTS]
        copy = paths.fetched(path, self._cache)
        if copy != path and paths.size_and_checksum(copy)[1] != self._checksums[STARTS]:
            Path(copy).unlink(missing_ok=True)
            raise UserError(f"the checksum of {path} is wrong: {FIX}")
        file, edge = _mapped(copy, np.uint8), (_pages(self.length) + 1) * _COUNT.itemsize
        return file[:edge].view(_COUNT), file[edge:].view(_PLACE)

    def starts(self, start: int, end: int) -> np.ndarray:
        """int64: the BOS in positions [start, end), which are at least one, in order. Raises UserError where the copy
        of a file behind a URL is damaged.
        """
        before, places = self._starts
        pages = []
        for page in range(start // PAGE, _pages(end)):
            edge, of_page = page * PAGE, places[before[page] : before[page + 1]]
            # A window has few documents or none: those of its page are not converted to find them.
            low = bisect.bisect_left(of_page, start - edge) if start > edge else 0
            high = bisect.bisect_left(of_page, end - edge, low) if end < edge + PAGE else len(of_page)
            pages.append(of_page[low:high].astype(np.int64) + edge)
        return pages[0] if len(pages) == 1 else np.concatenate(pages)

    def is_right(self, suffix: str) -> bool:
        """Read a file; return whether it has its checksum."""
        return paths.size_and_checksum(self.paths[suffix])[1] == self._checksums[suffix]

    def documents(self) -> Iterator[bytes]:
        """The raw bytes of each document, read several megabytes at a time."""
        edges = np.append(self.starts(0, self.length), self.length)
        low = 0
        while low < len(edges) - 1:
            high = max(int(edges.searchsorted(edges[low] + _CHUNK, "right")) - 1, low + 1)
            chunk = np.empty(edges[high] - edges[low], self.vocabulary.dtype)
            read_stretches([Stretch(self, int(edges[low]), chunk)])
            within = (edges[low : high + 1] - edges[low]).tolist()
            for start, end in zip(within, within[1:], strict=False):
                document = chunk[start + 1 : end]
                yield document.tobytes() if self._tokenizer is None else self._tokenizer.decode(document)
            low = high


def pack_starts(starts: np.ndarray, length: int) -> bytes:
    """The .starts file of a shard of `length` positions whose BOS stand at `starts`, int64 [documents]."""
    before = np.searchsorted(starts, np.arange(_pages(length) + 1) * PAGE)
    return before.astype(_COUNT).tobytes() + (starts % PAGE).astype(_PLACE).tobytes()


class Stretch(NamedTuple):
    """Positions of a shard from `start` on, and the array [length] that they are read into; a BOS is read as 0."""

    shard: Shard
    start: int
    into_W: np.ndarray


def read_stretches(stretches: list[Stretch]) -> None:
    """Fill the arrays of stretches of one folder. A host that has no rows of a source in a batch has no stretches."""
    if stretches and paths.is_url(stretches[0].shard.paths[POSITIONS]):
        # File systems of buckets ask for all ranges of one call at once.
        dtype, files = stretches[0].shard.vocabulary.dtype, [stretch.shard.paths[POSITIONS] for stretch in stretches]
        size = dtype.itemsize
        begins = [start * size for _, start, _ in stretches]
        ends = [(start + len(into_W)) * size for _, start, into_W in stretches]
        ranges = paths.system(files[0]).cat_ranges(files, begins, ends, on_error="raise")
        pieces = [np.frombuffer(data, dtype) for data in ranges]
    else:
        pieces = [shard.mapped[start : start + len(into_W)] for shard, start, into_W in stretches]
    for (_, _, into_W), piece in zip(stretches, pieces, strict=True):
        into_W[:] = piece


class Writer:
    """Writes the files of one shard, synced onto the disk: of bytes, or of tokens, which need a document whole."""

    def __init__(self, folder: Path, name: str, tokenizer: Tokenizer | None = None):
        self._folder, self._name, self._tokenizer = folder, name, tokenizer
        self._dtype = vocabulary_of(tokenizer).dtype
        self._pieces: list[bytes] = []
        self._file = open(folder / f"{name}{POSITIONS}", "wb")
        # As an array, because there may be many millions.
        self._starts = array("q")
        self._position = self._checksum = self._bytes = 0

    def begin_document(self) -> None:
        self._end_document()
        self._starts.append(self._position)
        self._put(bytes(self._dtype.itemsize))

    def write(self, piece: bytes) -> None:
        """Write a piece of the text of the document that was begun last."""
        self._bytes += len(piece)
        if self._tokenizer is None:
            self._put(piece)
        else:
            self._pieces.append(piece)

    def finish(self) -> ShardEntry:
        self._end_document()
        starts = pack_starts(np.frombuffer(self._starts, np.int64), self._position)
        with open(self._folder / f"{self._name}{STARTS}", "wb") as file:
            file.write(starts)
            sync(file)
        sync(self._file)
        self._file.close()
        return ShardEntry(
            name=self._name,
            documents=len(self._starts),
            bytes=self._bytes,
            **({"tokens": self._position - len(self._starts)} if self._tokenizer else {}),
            checksums={POSITIONS: self._checksum, STARTS: zlib.crc32(starts)},
        )

    def _end_document(self) -> None:
        if self._pieces:
            self._put(self._tokenizer.encode(b"".join(self._pieces)).tobytes())
            self._pieces = []

    def _put(self, data: bytes) -> None:
        self._file.write(data)
        self._checksum = zlib.crc32(data, self._checksum)
        self._position += len(data) // self._dtype.itemsize


def sync(file) -> None:
    """Write a file onto the disk, so that a power cut leaves no file of zeros under the name that it gets later."""
    file.flush()
    os.fsync(file.fileno())


def _length(entry: ShardEntry) -> int:
    return entry["documents"] + entry.get("tokens", entry["bytes"])


def _pages(length: int) -> int:
    return -(-length // PAGE)


def _mapped(path: str, dtype: type | np.dtype) -> np.ndarray:
    # A plain view of the map, because slicing a np.memmap costs more than copying a window does.
    return np.asarray(np.memmap(path, dtype, "r"))
