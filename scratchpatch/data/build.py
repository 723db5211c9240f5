"""Writing a source's stream index.

    stream.bin   uint8: every document, a placeholder before it where its BOS stands
    starts.npy   int64: the position of each document's BOS, counted from its part's first
    meta.json    {"meta": sizes, checksums, the parts' places, and the bad records skipped; "checksum": of that}
    right.json   which states of the first two files were compared with their checksums (see `checks`)
    seen.json    which states of the sources this is the text of (see `same_text`)

`checksum` in the meta is that of stream.bin; where documents were dealt by their
bytes, it knows their parts too. `digests` are those of the files.

The folder is written beside its final place and renamed into it: a reader sees
all of it or nothing, and of two processes that build at once the first one's
is kept. The sources are read once, in order; what the split needs to know of all
documents (how many, which sizes) is known only then, so they are copied into
their parts afterwards. Of a long document a piece is in memory at a time.
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
from typing import NotRequired, TypedDict

import numpy as np
from absl import logging

from scratchpatch import files as local_files
from scratchpatch import json_files
from scratchpatch.data import checks, same_text, splits, work_folder
from scratchpatch.data.records import RECORD_BYTES, BadRecords, Broken, Document, skipped
from scratchpatch.data.sources import Source
from scratchpatch.errors import UserError
from scratchpatch.json_files import Count

FORMAT = 3
STREAM, STARTS, META, RIGHT, SEEN = "stream.bin", "starts.npy", "meta.json", "right.json", "seen.json"
SECONDS_BETWEEN_LINES = 5
_PLACEHOLDER = b"\0"
_COPY_BYTES = 1 << 24


class _Part(TypedDict):
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
    parts: dict[str, _Part]
    probe: str


class _Sealed(TypedDict):
    meta: _Meta
    checksum: str


def intact(place: Path) -> dict | None:
    """The meta of an index; see `look`."""
    found = look(place)
    return found and found[0]


def look(place: Path) -> tuple[dict, checks.Check] | None:
    """The index's meta and what is still to be compared, or None where the index is missing or damaged."""
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
        parts = [_checked(place / name, meta) for name in (STARTS, STREAM)]
        return meta, checks.Check(parts, place / RIGHT, lambda path: _forget(place, path))
    except (OSError, ValueError, KeyError, checks.Damaged) as error:
        logging.warning("%s is damaged (%s): building it again", place, error)
        return None


def arrays(place: Path, part: dict) -> tuple[np.ndarray, np.ndarray]:
    """(uint8 [positions], int64 [documents]) of a part of an intact index, memory-mapped. Raises OSError, ValueError."""
    # Plain views of the maps: a np.memmap costs more per slice than a window does.
    data, starts = np.asarray(np.memmap(place / STREAM, np.uint8, "r")), _starts(place)
    first, document = part["position"], part["document"]
    return data[first : first + part["positions"]], starts[document : document + part["documents"]]


def _starts(place: Path) -> np.ndarray:
    try:
        found = np.asarray(np.load(place / STARTS, mmap_mode="r"))
    except (OSError, ValueError):
        raise
    except Exception as error:
        # NumPy reads a header as Python reads a program.
        raise ValueError(f"{place / STARTS} cannot be read: {error}") from error
    if found.dtype != np.int64 or found.ndim != 1:
        raise ValueError(f"{place / STARTS} holds {found.dtype} of {found.ndim} dimensions, wanted a row of int64")
    return found


def _check_bounds(meta: dict, documents: int) -> None:
    """Raise ValueError unless the parts divide the stream and its documents."""
    if tuple(meta["parts"]) not in (("all",), splits.PARTS):
        raise ValueError(f"it has the parts {', '.join(meta['parts'])}")
    ends = {"position": 0, "document": 0}
    for part in meta["parts"].values():
        if any(part[first] != end for first, end in ends.items()):
            raise ValueError("its parts do not lie one after the other")
        ends = {first: part[first] + part[f"{first}s"] for first in ends}
    if list(ends.values()) != [meta["sizes"][STREAM], documents]:
        raise ValueError("its parts are not the whole stream")


def _checked(path: Path, meta: dict) -> checks.Checked:
    wanted = meta["digests"][path.name]
    return checks.Checked(str(path), meta["sizes"][path.name], lambda: _digest(path) == wanted)


def _digest(path: Path) -> str:
    with local_files.open_regular(path) as file:
        return hashlib.file_digest(file, _hash).hexdigest()


def _hash() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


def _forget(place: Path, path: str) -> str:
    """Let an index that is damaged be built again at the next start; what to tell the user."""
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
    """Read `files` and leave their index at `place`, in place of a damaged one, or one of another text.

    `share` of the documents validate, and as many test (see `splits`).

    Raises:
        UserError: a bad record (unless skipped), or no bytes at all.
        OSError: the index cannot be written.
    """
    with work_folder.work_folder(place.parent) as work:
        seen, probe = same_text.state(files), same_text.probe(files)
        spill, bad = work / "spill", BadRecords(on_bad_record, record_bytes)
        sizes, places = _spill(spill, source, files, bad)
        if not sizes.sum():
            left_out = f" ({skipped(bad.count, bad.broken)}, first: {bad.messages[0]})" if bad.count else ""
            raise UserError(f"{source.spec}: the source is empty, its {len(files)} file(s) hold no bytes{left_out}")
        meta = {"spec": source.spec, "documents": len(sizes), "skipped": bad.count, "broken": bad.broken, "bad": bad.messages}
        meta["probe"] = probe
        if layout == "whole":
            names, parts = ("all",), np.zeros(len(sizes), np.int8)
            runs, before = _runs(sizes, parts), b""
        elif len(sizes) == 1 and not source.standard:
            pieces = splits.cut(int(sizes[0]))
            names, sizes, parts = splits.PARTS, np.array([end - start for start, end in pieces], np.int64), np.arange(3, dtype=np.int8)
            runs, before = [(start + 1, end + 1) for start, end in pieces], _PLACEHOLDER
        else:
            names, parts = splits.PARTS, splits.assign(places, share)
            meta["least_share"] = splits.least_share(places, sizes)
            runs, before = _runs(sizes, parts), b""
        checksum = _copy(spill, work / STREAM, runs, before)
        spill.unlink()
        whole = checksum.hexdigest()
        if "least_share" in meta and not source.standard:
            checksum.update(np.bincount(parts, minlength=len(names)).astype("<i8"))
        meta["checksum"] = checksum.hexdigest()
        meta["parts"] = _write_starts(work / STARTS, sizes, parts, names)
        meta["digests"] = {STREAM: whole, STARTS: _digest(work / STARTS)}
        meta["sizes"] = _file_sizes(work)
        with open(work / META, "w") as file:
            json.dump({"meta": meta, "checksum": json_files.seal(meta)}, file, indent=1)
            _sync(file)
        same_text.remember(work / SEEN, seen)
        if _publish(work, place, probe):
            checks.remember(place / RIGHT, [str(place / name) for name in (STARTS, STREAM)])
        logging.info("indexed %s: %d documents, %d bytes", source.spec, meta["documents"], sizes.sum())


def _spill(spill: Path, source: Source, files: list[tuple[str, str]], bad: BadRecords) -> tuple[np.ndarray, np.ndarray]:
    """Write every document as it comes; returns their sizes in bytes (int64) and places (uint64, see `splits.place`)."""
    sizes, places, total = array("q"), array("Q"), 0
    place_of = _StandardPlaces() if source.standard else lambda document, digest: splits.place(digest)
    next_line = time.monotonic() + SECONDS_BETWEEN_LINES
    with open(spill, "wb") as out:
        for document in source.documents(files, bad):
            begin, size, digest = out.tell(), 0, splits.hasher()
            out.write(_PLACEHOLDER)
            try:
                for piece in document.pieces:
                    out.write(piece)
                    digest.update(piece)
                    size += len(piece)
            except Broken as broken:
                out.seek(begin)
                out.truncate()
                bad.add(*broken.args)
                continue
            sizes.append(size)
            places.append(place_of(document, digest.digest()))
            total += size
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

    def __call__(self, document: Document, digest: bytes) -> int:
        return self._known.setdefault(digest, splits.name_place(document.name))


def _runs(sizes: np.ndarray, parts: np.ndarray) -> Iterator[tuple[int, int]]:
    """[first, end) in the spill of neighbours that stay neighbours, part by part, in their order within each."""
    ends = np.cumsum(sizes + 1)
    order = np.argsort(parts, kind="stable")
    breaks = np.flatnonzero(np.diff(order) != 1) + 1
    for run in np.split(order, breaks):
        yield int(ends[run[0]] - sizes[run[0]] - 1), int(ends[run[-1]])


def _copy(spill: Path, stream: Path, runs: Iterable[tuple[int, int]], before: bytes) -> hashlib.blake2b:
    """Copy runs of the spill, each after `before`; returns the hash of what was written."""
    checksum = _hash()
    with open(spill, "rb") as found, open(stream, "wb") as out:
        for first, end in runs:
            checksum.update(before)
            out.write(before)
            found.seek(first)
            while first < end:
                piece = found.read(min(_COPY_BYTES, end - first))
                if not piece:
                    raise OSError(errno.EIO, "it ends before what was written to it", str(spill))
                checksum.update(piece)
                out.write(piece)
                first += len(piece)
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


def _publish(work: Path, place: Path, probe: str) -> bool:
    """Rename `work` to `place`, unless another process has put an intact index of the same text there meanwhile: then False."""
    while True:
        found = intact(place)
        if found and found["probe"] == probe:
            return False
        if os.path.lexists(place):
            work_folder.move_away(place)
        try:
            os.rename(work, place)
            return True
        except OSError:
            if not os.path.lexists(place):
                raise
