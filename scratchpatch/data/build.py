"""Writing the stream index of a source, and opening it again.

    stream.bin   one element of the vocabulary's dtype per position: every document, and a 0 before it where its BOS
    stands starts.npy   int64: the position of each document's BOS, counted from the first position of its split
    meta.json    {"meta": sizes, checksums, where each split lies, the bad records skipped; "checksum": of that}
    right.json   which states of the first two files were compared with their checksums (see `checks`) seen.json
    which states of the source's files this is the text of (see `same_text`)

`checksum` in the meta is that of stream.bin; where documents were dealt to splits, it also knows how. `digests` are
those of the files.

The folder is written beside its final place and renamed into it, so that a reader sees all of it or nothing. Where two
processes build at once, the index of the one that is first stays. The sources are read once, in order. What the splits
need to know of all documents (how many, which sizes) is known only then, so the documents are copied into their splits
afterwards. Of a long document, one piece at a time is in memory.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import time
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, NotRequired, TypedDict

import numpy as np
from absl import logging

from scratchpatch import json_files
from scratchpatch.data import checks, same_text, splits, work_folder
from scratchpatch.data.records import RECORD_BYTES, BadRecords, Broken, Document
from scratchpatch.data.sources import Source
from scratchpatch.data.stream import skipped_in_words
from scratchpatch.errors import UserError
from scratchpatch.files import open_regular
from scratchpatch.json_files import Count
from scratchpatch.vocabulary import BYTES

FORMAT = 3
STREAM, STARTS, META, RIGHT, SEEN = "stream.bin", "starts.npy", "meta.json", "right.json", "seen.json"
# Documents are bytes, so the ids of an index are bytes.
VOCABULARY = BYTES
SECONDS_BETWEEN_LINES = 5
_PLACEHOLDER = bytes(VOCABULARY.dtype.itemsize)
_COPY_BYTES = 1 << 24


class _Stretch(TypedDict):
    """Where a split lies: its first position and its first document, and how many it has of both."""

    position: Count
    positions: Count
    document: Count
    documents: Count


class _Meta(TypedDict):
    spec: str
    documents: Count
    skipped: Count
    broken: Count
    bad: list[str]
    least_share: NotRequired[float | None]
    checksum: str
    digests: dict[str, str]
    sizes: dict[str, Count]
    parts: dict[str, _Stretch]
    probe: str


class _Sealed(TypedDict):
    meta: _Meta
    checksum: str


def intact_meta(place: Path) -> dict | None:
    """The meta of the index at `place`; None where it is missing or damaged."""
    index = open_index(place)
    return index and index[0]


def open_index(place: Path) -> tuple[dict, checks.Check] | None:
    """The index's meta and the comparison that is left to do; None where the index is missing or damaged."""
    if not os.path.lexists(place):
        return None
    try:
        sealed = json_files.read(place / META, _Sealed)
        meta = sealed["meta"]
        if sealed["checksum"] != json_files.seal(meta):
            raise ValueError(f"the checksum of {place / META} is wrong")
        sizes = _file_sizes(place)
        if sizes != meta["sizes"]:
            raise ValueError(f"sizes {sizes}, wanted {meta['sizes']}")
        _check_bounds(meta, len(_starts(place)))
        checked = [_checked(place / name, meta) for name in (STARTS, STREAM)]
        return meta, checks.Check(checked, place / RIGHT, lambda path: _forget(place, path))
    except (OSError, ValueError, KeyError, checks.Damaged) as error:
        logging.warning("%s is damaged (%s): building it again", place, error)
        return None


def arrays(place: Path, part: dict) -> tuple[np.ndarray, np.ndarray]:
    """A split of an intact index, memory-mapped: its ids [positions], and int64 [documents], its BOS.

    `part` is the split's entry in the meta. Raises OSError, ValueError.
    """
    # Plain views of the maps, because slicing a np.memmap costs more than copying a window does.
    ids, starts = np.asarray(np.memmap(place / STREAM, VOCABULARY.dtype, "r")), _starts(place)
    position, document = part["position"], part["document"]
    return ids[position : position + part["positions"]], starts[document : document + part["documents"]]


def _starts(place: Path) -> np.ndarray:
    try:
        starts = np.asarray(np.load(place / STARTS, mmap_mode="r"))
    except (OSError, ValueError):
        raise
    except Exception as error:
        # NumPy reads a header as Python reads a program.
        raise ValueError(f"{place / STARTS} cannot be read: {error}") from error
    if starts.dtype != np.int64 or starts.ndim != 1:
        raise ValueError(f"{place / STARTS} holds {starts.dtype} of {starts.ndim} dimensions, wanted a row of int64")
    return starts


def _check_bounds(meta: dict, documents: int) -> None:
    """Raise ValueError unless the splits divide the stream and its documents."""
    if tuple(meta["parts"]) not in (("all",), splits.SPLITS):
        raise ValueError(f"it has the parts {', '.join(meta['parts'])}")
    ends = {"position": 0, "document": 0}
    for part in meta["parts"].values():
        if any(part[unit] != end for unit, end in ends.items()):
            raise ValueError("its parts do not lie one after the other")
        ends = {unit: part[unit] + part[f"{unit}s"] for unit in ends}
    if list(ends.values()) != [meta["sizes"][STREAM] // VOCABULARY.dtype.itemsize, documents]:
        raise ValueError("its parts are not the whole stream")


def _checked(path: Path, meta: dict) -> checks.Checked:
    wanted = meta["digests"][path.name]
    return checks.Checked(str(path), meta["sizes"][path.name], lambda: _digest(path) == wanted)


def _digest(path: Path) -> str:
    with open_regular(path) as file:
        return hashlib.file_digest(file, _hash).hexdigest()


def _hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


def _forget(place: Path, path: str) -> str:
    """Let a damaged index be built again at the next start; returns the message for the user."""
    with contextlib.suppress(OSError):
        (place / META).unlink()
    return f"the checksum of {path} is wrong, the stream index is damaged: start again, and it is built anew"


def _file_sizes(place: Path) -> dict[str, int]:
    return {name: (place / name).stat().st_size for name in (STREAM, STARTS)}


def build(
    place: Path,
    source: Source,
    layout: str,
    files: list[tuple[str, str]],
    on_bad_record: str,
    share: float = splits.SHARE,
    record_bytes: int = RECORD_BYTES,
) -> None:
    """Read `files` and leave their index at `place`, in place of one that is damaged or of another text.

    `layout` and `share` are those of `index.open_stream`.

    Raises:
        UserError: a bad record (unless skipped), or no bytes at all.
        OSError: the index cannot be written.
    """
    with work_folder.work_folder(place.parent) as work:
        seen, probe = same_text.state(files), same_text.probe(files)
        spill, bad = work / "spill", BadRecords(on_bad_record, record_bytes)
        sizes, places = _spill(spill, source, files, bad)
        if not sizes.sum():
            left_out = f" ({skipped_in_words(bad.count, bad.broken)}, first: {bad.messages[0]})" if bad.count else ""
            raise UserError(f"{source.spec}: the source is empty, its {len(files)} file(s) hold no bytes{left_out}")
        meta = {"spec": source.spec, "documents": len(sizes), "probe": probe}
        meta |= {"skipped": bad.count, "broken": bad.broken, "bad": bad.messages}
        names, splits_of = splits.SPLITS, np.zeros(len(sizes), np.int8)
        if layout == "whole":
            names = ("all",)
        elif len(sizes) > 1 or source.standard:
            splits_of = splits.assign(places, share)
            meta["least_share"] = splits.least_share(places, sizes)
        if layout == "split" and "least_share" not in meta:
            # The only document is cut, and each piece has a BOS of its own.
            runs, before = [(start + 1, end + 1) for start, end in splits.cut(int(sizes[0]))], _PLACEHOLDER
            sizes, splits_of = np.array([end - start for start, end in runs]), np.arange(3)
        else:
            runs, before = _runs(sizes, splits_of), b""
        checksum = _copy(spill, work / STREAM, runs, before)
        spill.unlink()
        meta["digests"] = {STREAM: checksum.hexdigest()}
        if "least_share" in meta and not source.standard:
            checksum.update(np.bincount(splits_of, minlength=len(names)).astype("<i8"))
        meta["checksum"] = checksum.hexdigest()
        meta["parts"] = _write_starts(work / STARTS, sizes, splits_of, names)
        meta["digests"][STARTS] = _digest(work / STARTS)
        meta["sizes"] = _file_sizes(work)
        with open(work / META, "wb") as file:
            file.write(json.dumps({"meta": meta, "checksum": json_files.seal(meta)}, indent=1).encode())
            _sync(file)
        same_text.remember(work / SEEN, seen)
        if _publish(work, place, probe):
            checks.remember(place / RIGHT, [str(place / name) for name in (STARTS, STREAM)])
        logging.info("indexed %s: %d documents, %d bytes", source.spec, meta["documents"], sizes.sum())


def _spill(
    spill: Path, source: Source, files: list[tuple[str, str]], bad: BadRecords
) -> tuple[np.ndarray, np.ndarray]:
    """Write every document as it comes; returns their sizes in bytes (int64) and `splits.place`s (uint64)."""
    sizes, places, total = array("q"), array("Q"), 0
    # Of documents of the standard library: by their digest, the place of the first of them.
    standard_places: dict[bytes, int] = {}
    next_line = time.monotonic() + SECONDS_BETWEEN_LINES
    with open(spill, "wb") as out:
        for document in source.documents(files, bad):
            begin = out.tell()
            out.write(_PLACEHOLDER)
            try:
                size, digest = _write_document(out, document)
            except Broken as broken:
                out.seek(begin)
                out.truncate()
                bad.add(*broken.args)
                continue
            sizes.append(size)
            if source.standard:
                # A module's docstring (stdlib:prose) stands in its code (stdlib:code): one name puts both in one split.
                places.append(standard_places.setdefault(digest, splits.name_place(document.name)))
            else:
                places.append(splits.place(digest))
            total += size
            if time.monotonic() > next_line:
                logging.info("indexing %s: %d documents, %.0f MB so far", source.spec, len(sizes), total / 1e6)
                next_line = time.monotonic() + SECONDS_BETWEEN_LINES
    return np.array(sizes, np.int64), np.array(places, np.uint64)


def _write_document(out: BinaryIO, document: Document) -> tuple[int, bytes]:
    """Write a document piece by piece; returns its size in bytes and its digest. Raises Broken."""
    size, hasher = 0, splits.hasher()
    for piece in document.pieces:
        out.write(piece)
        hasher.update(piece)
        size += len(piece)
    return size, hasher.digest()


def _runs(sizes: np.ndarray, splits_of: np.ndarray) -> Iterator[tuple[int, int]]:
    """[start, end) in the spill of neighbours that stay neighbours, split by split, in their order within each."""
    ends = np.cumsum(sizes + 1)
    order = np.argsort(splits_of, kind="stable")
    breaks = np.flatnonzero(np.diff(order) != 1) + 1
    for run in np.split(order, breaks):
        yield int(ends[run[0]] - sizes[run[0]] - 1), int(ends[run[-1]])


def _copy(spill: Path, stream: Path, runs: Iterable[tuple[int, int]], before: bytes) -> hashlib.blake2b:
    """Copy runs of the spill, each after `before`; returns the hash of what was written."""
    checksum = _hash()
    with open(spill, "rb") as spilled, open(stream, "wb") as out:
        for start, end in runs:
            checksum.update(before)
            out.write(before)
            spilled.seek(start)
            while start < end:
                piece = spilled.read(min(_COPY_BYTES, end - start))
                if not piece:
                    raise OSError(errno.EIO, "it ends before what was written to it", str(spill))
                checksum.update(piece)
                out.write(piece)
                start += len(piece)
        _sync(out)
    return checksum


def _write_starts(path: Path, sizes: np.ndarray, splits_of: np.ndarray, names: tuple[str, ...]) -> dict[str, dict]:
    """Write the BOS positions; returns where each split lies in both files."""
    stretches, starts, position, document = {}, [], 0, 0
    for split, name in enumerate(names):
        lengths = sizes[splits_of == split] + 1
        starts.append(np.cumsum(lengths) - lengths)
        positions, documents = int(lengths.sum()), len(lengths)
        stretches[name] = _Stretch(position=position, positions=positions, document=document, documents=documents)
        position, document = position + positions, document + documents
    with open(path, "wb") as file:
        np.save(file, np.concatenate(starts).astype(np.int64))
        _sync(file)
    return stretches


def _sync(file: BinaryIO) -> None:
    """Write a file onto the disk before the folder is renamed, so that a power cut leaves no index of zeros."""
    file.flush()
    os.fsync(file.fileno())


def _publish(work: Path, place: Path, probe: str) -> bool:
    """Rename `work` to `place`; returns False where another process has put an intact index of the same text there."""
    while True:
        other = intact_meta(place)
        if other and other["probe"] == probe:
            return False
        if os.path.lexists(place):
            work_folder.move_away(place)
        try:
            os.rename(work, place)
            return True
        except OSError:
            if not os.path.lexists(place):
                raise
