"""Writing the stream index of a source, and opening it again.

    train.bin, train.starts   a shard, see `shards`: the documents of a split in the order of the source; and so on
    meta.json                 the shards' entries, counts, the bad records skipped, checksums, and a seal of its own
    right-train.json          which states of a shard's files were compared with their checksums (see `checks`)
    seen.json                 which states of the source's files this is the text of (see `same_text`)

`checksum` in meta.json is that of all shards' positions; where documents were dealt to splits, it also knows how.

Where two processes build at once, the index of the one that is first stays. Of a long document, one piece at a time is
in memory: it is spilled to a file until its split is known.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from array import array
from pathlib import Path
from typing import BinaryIO, NotRequired, TypedDict

import numpy as np
from absl import logging

from scratchpatch import json_files
from scratchpatch.data import checks, same_text, splits, work_folder
from scratchpatch.data.records import BadRecords, Broken, Document, skipped
from scratchpatch.data.shards import POSITIONS, Shard, ShardEntry, Writer, check_files, comparison, sealed, sync
from scratchpatch.data.sources import Source
from scratchpatch.data.tokenizer import Tokenizer, vocabulary
from scratchpatch.errors import UserError
from scratchpatch.files import size_and_checksum
from scratchpatch.json_files import Count

FORMAT = 4
META, SEEN = "meta.json", "seen.json"
SECONDS_BETWEEN_LINES = 5
# Bytes of a long document that are in memory until its split is known, and that are copied at a time.
_SPILL_BYTES, _COPY_BYTES = 1 << 22, 1 << 22
_LAYOUTS = {"whole": ("all",), "split": splits.SPLITS}


class _Meta(TypedDict):
    spec: str
    documents: Count
    skipped: Count
    broken: Count
    bad: list[str]
    least_share: NotRequired[float | None]
    checksum: str
    splits: dict[str, ShardEntry]
    probe: str
    seal: str


def open_index(
    place: Path, tokenizer: Tokenizer | None = None
) -> tuple[dict, dict[str, tuple[Shard, checks.Check]]] | None:
    """The meta of the index at `place`, and of each split its shard and the comparison of it that is left to do.
    Returns None where the index is missing or damaged. tokenizer: of the tokens that it has; None: it has bytes.
    """
    if not os.path.lexists(place):
        return None
    try:
        meta = json_files.read(place / META, _Meta)
        if sealed(meta) != meta:
            raise ValueError(f"the seal of {place / META} is wrong")
        if tuple(meta["splits"]) not in _LAYOUTS.values():
            raise ValueError(f"it has the splits {', '.join(meta['splits'])}")
        check_files(str(place), list(meta["splits"].values()), vocabulary(tokenizer))
        shards = {}
        for name, entry in meta["splits"].items():
            shard = Shard(str(place), entry, tokenizer=tokenizer)
            shards[name] = shard, comparison([shard], _marker(place, name), lambda path: _forget(place, path))
        return meta, shards
    except (OSError, ValueError, checks.Damaged) as error:
        logging.warning("%s is damaged (%s): building it again", place, error)
        return None


def _marker(place: Path, split: str) -> Path:
    return place / f"right-{split}.json"


def _forget(place: Path, path: str) -> str:
    """Let a damaged index be built again at the next start; returns the message for the user."""
    with contextlib.suppress(OSError):
        (place / META).unlink()
    return f"the checksum of {path} is wrong, the stream index is damaged: start again, and it is built anew"


def build(
    place: Path,
    source: Source,
    layout: str,
    files: list[tuple[str, str]],
    bad: BadRecords,
    share: float,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Read `files` and leave their index at `place`, in place of one that is damaged or of another text.

    `layout`, `share` and `tokenizer` are those of `index.open_source`. Raises UserError for a bad record (unless
    skipped) or no bytes at all; OSError where the index cannot be written.
    """
    with work_folder.work_folder(place.parent) as work:
        seen, probe = same_text.state(files), same_text.probe(files)
        writers = {name: Writer(work, name, tokenizer) for name in _LAYOUTS[layout]}
        entries, places = _write_shards(work, source, writers, files, bad, share)
        documents, size = (sum(entry[count] for entry in entries.values()) for count in ("documents", "bytes"))
        if not size:
            left_out = f" ({skipped(bad.count, bad.broken)}, first: {bad.messages[0]})" if bad.count else ""
            raise UserError(f"{source.spec}: the source is empty, its {len(files)} file(s) hold no bytes{left_out}")
        meta = {"spec": source.spec, "documents": documents, "probe": probe}
        meta |= {"skipped": bad.count, "broken": bad.broken, "bad": bad.messages}
        dealt = layout == "split"
        if dealt and documents == 1 and not source.standard:
            entries, dealt = _cut(work, entries, tokenizer), False
        checksum = hashlib.blake2b(digest_size=16)
        for name in entries:
            with open(work / f"{name}{POSITIONS}", "rb") as file:
                size_and_checksum(file, checksum.update)
        if dealt:
            meta["least_share"] = splits.least_share(np.array(places, np.uint64))
        if dealt and not source.standard:
            checksum.update(np.array([entry["documents"] for entry in entries.values()], "<i8"))
        meta |= {"checksum": checksum.hexdigest(), "splits": entries}
        with open(work / META, "wb") as file:
            file.write(json.dumps(sealed(meta), indent=1).encode())
            sync(file)
        same_text.remember(work / SEEN, seen)
        if _publish(work, place, probe, tokenizer):
            for name, entry in entries.items():
                checks.remember(_marker(place, name), list(Shard(str(place), entry).paths.values()))
        logging.info("indexed %s: %d documents, %d bytes", source.spec, documents, size)


def _write_shards(
    work: Path, source: Source, writers: dict[str, Writer], files: list[tuple[str, str]], bad: BadRecords, share: float
) -> tuple[dict[str, ShardEntry], array]:
    """Write every document to the shard of its split; the shards' entries, and the `splits.place` of each document that
    has bytes.
    """
    places, count, total = array("Q"), 0, 0
    # Of documents of the standard library: by their digest, the place of the first of them.
    standard_places: dict[bytes, int] = {}
    next_line = time.monotonic() + SECONDS_BETWEEN_LINES
    for document in source.documents(files, bad):
        with tempfile.SpooledTemporaryFile(_SPILL_BYTES, dir=work) as spill:
            try:
                digest = _spill(document, spill)
            except Broken as broken:
                bad.add(*broken.args)
                continue
            place = splits.place(digest)
            if source.standard:
                # A module's docstring (stdlib:prose) stands in its code (stdlib:code): one name puts both in one split.
                place = standard_places.setdefault(digest, splits.name_place(document.name))
            writer = writers.get("all") or writers[splits.split_of(place, share)]
            writer.begin_document()
            size = spill.tell()
            spill.seek(0)
            _copy(spill, writer, size)
        count, total = count + 1, total + size
        if size:
            places.append(place)
        if time.monotonic() > next_line:
            logging.info("indexing %s: %d documents, %.0f MB so far", source.spec, count, total / 1e6)
            next_line = time.monotonic() + SECONDS_BETWEEN_LINES
    return {name: writer.finish() for name, writer in writers.items()}, places


def _spill(document: Document, spill: BinaryIO) -> bytes:
    """Write a document piece by piece; returns its digest. Raises Broken."""
    hasher = splits.hasher()
    for piece in document.pieces:
        spill.write(piece)
        hasher.update(piece)
    return hasher.digest()


def _copy(file: BinaryIO, writer: Writer, size: int) -> None:
    """Copy the next `size` bytes of a file. Raises OSError where it has fewer."""
    while size:
        piece = file.read(min(_COPY_BYTES, size))
        if not piece:
            raise OSError("a file that was just written ends before what was written to it")
        writer.write(piece)
        size -= len(piece)


def _cut(work: Path, entries: dict[str, ShardEntry], tokenizer: Tokenizer | None) -> dict[str, ShardEntry]:
    """Cut the only document of a source into three, in place of the shards that have it whole: by its bytes, also where
    they are stored as tokens.
    """
    (whole,) = (entry for entry in entries.values() if entry["documents"])
    os.rename(work / f"{whole['name']}{POSITIONS}", work / "whole")
    if tokenizer is not None:
        positions = np.fromfile(work / "whole", tokenizer.vocabulary.dtype)
        (work / "whole").write_bytes(tokenizer.decode(positions[1:]))
    writers = {name: Writer(work, name, tokenizer) for name in splits.SPLITS}
    with open(work / "whole", "rb") as file:
        # What stands before the text is the place of its BOS.
        file.seek(-whole["bytes"], os.SEEK_END)
        for writer, (start, end) in zip(writers.values(), splits.cut(whole["bytes"]), strict=True):
            writer.begin_document()
            _copy(file, writer, end - start)
    (work / "whole").unlink()
    return {name: writer.finish() for name, writer in writers.items()}


def _publish(work: Path, place: Path, probe: str, tokenizer: Tokenizer | None) -> bool:
    """Rename `work` to `place`; returns False where another process has put an intact index of the same text there."""
    while True:
        other = open_index(place, tokenizer)
        if other and other[0]["probe"] == probe:
            return False
        if os.path.lexists(place):
            work_folder.move_away(place)
        try:
            os.rename(work, place)
            return True
        except OSError:
            if not os.path.lexists(place):
                raise
