"""Writing a source's stream index.

    stream.bin   uint8: every document, a placeholder before it where its BOS stands
    starts.npy   int64: the position of each document's BOS, counted from its part's first
    meta.json    sizes, checksum, the parts' places, and the bad records skipped

The checksum is that of stream.bin; where documents were dealt by their bytes, it
knows their parts too.

The folder is written beside its final place and renamed into it: a reader sees
all of it or nothing, and of two processes that build at once the first one's
is kept. The sources are read once, in order; what the split needs to know of all
documents (how many, which sizes) is known only then, so they are copied into
their parts afterwards.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
from array import array
from pathlib import Path

import numpy as np
from absl import logging

from scratchpatch.data import splits
from scratchpatch.data.records import BadRecords, Document, skipped
from scratchpatch.data.sources import Source
from scratchpatch.errors import UserError

FORMAT = 2
STREAM, STARTS, META = "stream.bin", "starts.npy", "meta.json"
SECONDS_BETWEEN_LINES = 5
_PLACEHOLDER = b"\0"
_COPY_BYTES = 1 << 24


def intact(place: Path) -> dict | None:
    """The index's meta, or None where the index is missing or its files are not the size they were."""
    if not place.exists():
        return None
    try:
        meta = json.loads((place / META).read_text())
        sizes = _file_sizes(place)
    except (OSError, ValueError) as error:
        logging.warning("%s is damaged (%s): building it again", place, error)
        return None
    if sizes != meta["sizes"]:
        logging.warning("%s is damaged (sizes %s, wanted %s): building it again", place, sizes, meta["sizes"])
        return None
    return meta


def _file_sizes(place: Path) -> dict[str, int]:
    return {name: (place / name).stat().st_size for name in (STREAM, STARTS)}


def build(
    place: Path, source: Source, layout: str, files: list[tuple[str, str]], on_bad_record: str, share: float = splits.SHARE
) -> None:
    """Read `files` and leave their index at `place`, in place of a damaged one.

    `share` of the documents validate, and as many test (see `splits`).

    Raises:
        UserError: a bad record (unless skipped), or no bytes at all.
        OSError: the index cannot be written.
    """
    work = place.parent / f".building-{uuid.uuid4().hex}"
    work.mkdir(parents=True)
    spill = work / "spill"
    try:
        bad = BadRecords(on_bad_record)
        sizes, places = _spill(spill, source, files, bad)
        if not sizes.sum():
            left_out = f" ({skipped(bad.count, bad.broken)}, first: {bad.messages[0]})" if bad.count else ""
            raise UserError(f"{source.spec}: the source is empty, its {len(files)} file(s) hold no bytes{left_out}")
        meta = {"spec": source.spec, "documents": len(sizes), "skipped": bad.count, "broken": bad.broken, "bad": bad.messages}
        if layout == "whole":
            names, parts = ("all",), np.zeros(len(sizes), np.int8)
        elif len(sizes) == 1 and not source.standard:
            names, (sizes, parts) = splits.PARTS, _cut(spill)
        else:
            names, parts = splits.PARTS, splits.assign(places, share)
            meta["least_share"] = splits.least_share(places, sizes)
        checksum = _copy(spill, work / STREAM, sizes, parts)
        if "least_share" in meta and not source.standard:
            checksum.update(np.bincount(parts, minlength=len(names)).astype("<i8"))
        meta["checksum"] = checksum.hexdigest()
        spill.unlink()
        meta["parts"] = _write_starts(work / STARTS, sizes, parts, names)
        meta["sizes"] = _file_sizes(work)
        with open(work / META, "w") as file:
            json.dump(meta, file, indent=1)
            _sync(file)
        _publish(work, place)
        logging.info("indexed %s: %d documents, %d bytes", source.spec, meta["documents"], sizes.sum())
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _spill(spill: Path, source: Source, files: list[tuple[str, str]], bad: BadRecords) -> tuple[np.ndarray, np.ndarray]:
    """Write every document as it comes; returns their sizes in bytes (int64) and places (uint64, see `splits.place`)."""
    sizes, places, total = array("q"), array("Q"), 0
    place_of = _StandardPlaces() if source.standard else lambda document: splits.place(splits.digest(document.data))
    next_line = time.monotonic() + SECONDS_BETWEEN_LINES
    with open(spill, "wb") as out:
        for document in source.documents(files, bad):
            out.write(_PLACEHOLDER)
            out.write(document.data)
            sizes.append(len(document.data))
            places.append(place_of(document))
            total += len(document.data)
            if time.monotonic() > next_line:
                logging.info("indexing %s: %d documents, %.0f MB so far", source.spec, len(sizes), total / 1e6)
                next_line = time.monotonic() + SECONDS_BETWEEN_LINES
    return np.array(sizes, np.int64), np.array(places, np.uint64)


class _StandardPlaces:
    """Places of the standard library's documents: by name, of equal ones by the first one's.

    A module's docstring (stdlib:prose) stands in its code (stdlib:code), so both have the split of their one name.
    """

    def __init__(self):
        self._known: dict[bytes, int] = {}

    def __call__(self, document: Document) -> int:
        return self._known.setdefault(splits.digest(document.data), splits.name_place(document.name))


def _cut(spill: Path) -> tuple[np.ndarray, np.ndarray]:
    """Rewrite the spill's one document as a document per part; returns their sizes and parts."""
    data = np.fromfile(spill, np.uint8)[1:]
    pieces = [data[start:end] for start, end in splits.cut(len(data))]
    with open(spill, "wb") as out:
        for piece in pieces:
            out.write(_PLACEHOLDER)
            out.write(piece)
    return np.array([len(piece) for piece in pieces], np.int64), np.arange(len(pieces), dtype=np.int8)


def _copy(spill: Path, stream: Path, sizes: np.ndarray, parts: np.ndarray) -> hashlib.blake2b:
    """Copy the documents part by part, in their order within each; returns the hash of what was written."""
    checksum = hashlib.blake2b(digest_size=16)
    data = np.memmap(spill, np.uint8, "r")
    ends = np.cumsum(sizes + 1)
    order = np.argsort(parts, kind="stable")
    breaks = np.flatnonzero(np.diff(order) != 1) + 1
    with open(stream, "wb") as out:
        for run in np.split(order, breaks):
            first, end = int(ends[run[0]] - sizes[run[0]] - 1), int(ends[run[-1]])
            for position in range(first, end, _COPY_BYTES):
                piece = data[position : min(position + _COPY_BYTES, end)]
                checksum.update(piece)
                out.write(piece)
        _sync(out)
    return checksum


def _write_starts(path: Path, sizes: np.ndarray, parts: np.ndarray, names: tuple[str, ...]) -> dict[str, dict]:
    """Write the BOS positions; returns where each part lies in both files."""
    places, starts, position, document = {}, [], 0, 0
    for part, name in enumerate(names):
        lengths = sizes[parts == part] + 1
        starts.append(np.cumsum(lengths) - lengths)
        places[name] = {
            "position": position,
            "positions": int(lengths.sum()),
            "document": document,
            "documents": len(lengths),
        }
        position += int(lengths.sum())
        document += len(lengths)
    with open(path, "wb") as file:
        np.save(file, np.concatenate(starts).astype(np.int64))
        _sync(file)
    return places


def _sync(file) -> None:
    """Onto the disk before the rename, so that a power cut leaves no index of zeros."""
    file.flush()
    os.fsync(file.fileno())


def _publish(work: Path, place: Path) -> None:
    """Rename `work` to `place`, unless another process has put an intact index there meanwhile."""
    while True:
        try:
            os.rename(work, place)
            return
        except OSError:
            if intact(place):
                return
            if not place.exists():
                raise
        damaged = place.parent / f".damaged-{uuid.uuid4().hex}"
        with contextlib.suppress(FileNotFoundError):  # another process moved it first
            os.rename(place, damaged)
        shutil.rmtree(damaged, ignore_errors=True)
