"""A source's stream on disk: built once, then memory-mapped.

The index's name is a key of the source, the layout and the (path, size,
modification time) of every file read, of the held-out share and the most bytes
of a record: where a file changes, a new index is built; where one changes
without a change of these, the index is built again (`same_text`). Layout 'whole' holds all documents in the order
of the source; layout 'split' holds train, validation and test one after the
other. `build` says what lies in the folder.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from absl import logging

from scratchpatch.data import build, paths, prepared, same_text, sources, splits
from scratchpatch.data.records import FIX, RECORD_BYTES, skipped
from scratchpatch.data.stream import IndexedStream, Stream
from scratchpatch.errors import UserError
from scratchpatch.places import cache_folder


def open_stream(
    spec: str,
    split: str,
    cache_dir: str = "",
    on_bad_record: str = "error",
    held_out: float = splits.SHARE,
    record_bytes: int = RECORD_BYTES,
) -> Stream:
    """The stream of one split of a source; its index is built where it is missing, damaged, or of another text.

    Args:
        spec: see `sources`.
        split: 'train', 'validation', 'test' or 'all'.
        cache_dir: see `places.cache_folder`.
        on_bad_record: 'error' or 'skip'.
        held_out: share of the documents that validate, and that test (see `splits`); the standard library has its own.
        record_bytes: the most that one record may hold (see `records`).

    Raises:
        UserError: an unknown spec or split, no file, a bad record (unless skipped), no bytes, no room on disk.
    """
    splits.check(split)
    source = sources.parse(spec)
    if source.scheme == "prepared":
        return prepared.open_stream(source, split, cache_folder(cache_dir))
    files = source.files()
    layout, share = "whole" if split == "all" else "split", splits.STANDARD_SHARE if source.standard else held_out
    place = cache_folder(cache_dir) / "index" / f"{source.scheme}-{_key(source, layout, files, share, record_bytes)}"
    try:
        found = build.look(place)
        if found is None or not _same_text(place, found[0], files):
            build.build(place, source, layout, files, on_bad_record, share, record_bytes)
            found = build.look(place)
        if found is None:
            raise OSError("what was written there does not read as it was written")
        meta, check = found
        part = meta["parts"][split]
        data, starts = build.arrays(place, part)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot keep the stream index in {place.parent} ({error}); set data.cache_dir") from error
    if meta["skipped"]:
        if on_bad_record != "skip":
            raise UserError(meta["bad"][0] + FIX)
        logging.warning("%s: %s: %s", spec, skipped(meta["skipped"], meta["broken"]), "; ".join(meta["bad"][:3]))
    if part["positions"] == part["documents"]:
        raise UserError(_empty(spec, split, share, meta))
    about = {"skipped": meta["skipped"], "checksum": meta["checksum"], "broken": meta["broken"]}
    return IndexedStream(spec=spec, split=split, data=data, starts=starts, check=check, **about)


def _same_text(place: Path, meta: dict, files: list[tuple[str, str]]) -> bool:
    """Whether an index has the text that the files hold now."""
    now = same_text.state(files)
    if same_text.is_seen(place / build.SEEN, now):
        return True
    if same_text.probe(files) != meta["probe"]:
        logging.warning("%s is of another text of the same names, sizes and times: building it again", place)
        return False
    same_text.remember(place / build.SEEN, now)
    return True


def _empty(spec: str, split: str, share: float, meta: dict) -> str:
    """Why a split has no bytes, and what gives it some."""
    said = f"{spec}: the {split} split is empty: a hash of its bytes deals each document, and of {meta['documents']} document(s) none "
    if split == "train":
        return said + f"with bytes is left for training at data.held_out = {share}: lower it, or give it more documents"
    least = meta.get("least_share")
    fix = f"set data.held_out = {least} (which holds out one), " if split == "validation" and least and least > share else ""
    return said + f"with bytes falls into its {share:.1%}: {fix}give it more documents, or name data.validation_sources"


def _key(source: sources.Source, layout: str, files: list[tuple[str, str]], share: float, record_bytes: int) -> str:
    state = []
    for name, path in files:
        try:
            state.append((name, path, *paths.state(path)))
        except OSError:
            state.append((name, path))  # reading it says what is wrong
    dealt = [share] if layout == "split" else []
    text = json.dumps([build.FORMAT, source.identity, layout, *dealt, record_bytes, state])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
