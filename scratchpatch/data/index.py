"""A source's stream on disk: an index, which is built once and then memory-mapped (see also `build`).

Layout 'whole' has all documents in the order of the source; layout 'split' has train, validation and test one after
the other. README.md says when an index is built again.
"""

import hashlib
import json

from absl import logging

from scratchpatch.data import build, paths, prepared, same_text, sources, splits
from scratchpatch.data.records import FIX, RECORD_BYTES, BadRecords, skipped
from scratchpatch.data.sources import Source
from scratchpatch.data.stream import Stream
from scratchpatch.data.tokenizer import Tokenizer
from scratchpatch.errors import UserError
from scratchpatch.places import cache_folder


def open_stream(spec: str, split: str, *arguments, **options) -> Stream:
    """The stream of one split of the source that a SPEC names; see `open_source` for the rest."""
    return open_source(sources.parse(spec), split, *arguments, **options)


def open_source(
    source: Source,
    split: str,
    cache_dir: str = "",
    on_bad_record: str = "error",
    held_out: float = splits.SHARE,
    record_bytes: int = RECORD_BYTES,
    tokenizer: Tokenizer | None = None,
) -> Stream:
    """The stream of one split of a source; its index is built where it is missing, damaged, or of another text.

    `on_bad_record` is 'error' or 'skip', and `record_bytes` the most that one record may hold (see `records`). The
    share `held_out` of the documents validates, and as much tests (see `splits`); the standard library has its own.
    With a `tokenizer` the stream has tokens, of the same documents in the same splits.

    Raises UserError: an unknown split, no file, a bad record (unless skipped), no bytes, no room on disk.
    """
    splits.check(split)
    if source.scheme == "prepared":
        return prepared.open_stream(source.spec, source.target, split, cache_folder(cache_dir), tokenizer)
    files = source.files()
    layout, share = "whole" if split == "all" else "split", splits.STANDARD_SHARE if source.standard else held_out
    key = _key(source, layout, files, share, record_bytes, tokenizer)
    place = cache_folder(cache_dir) / "index" / f"{source.scheme}-{key}"
    try:
        index = build.open_index(place, tokenizer)
        if index is None or not same_text.is_same(place / build.SEEN, index[0]["probe"], files):
            build.build(place, source, layout, files, BadRecords(on_bad_record, record_bytes), share, tokenizer)
            index = build.open_index(place, tokenizer)
        if index is None:
            raise OSError("what was written there does not read as it was written")
    except (OSError, ValueError) as error:
        raise UserError(f"cannot keep the stream index in {place.parent} ({error}); set data.cache_dir") from error
    meta, shards = index
    shard, check = shards[split]
    if meta["skipped"]:
        if on_bad_record != "skip":
            raise UserError(meta["bad"][0] + FIX)
        left_out = skipped(meta["skipped"], meta["broken"])
        logging.warning("%s: %s: %s", source.spec, left_out, "; ".join(meta["bad"][:3]))
    if not meta["splits"][split]["bytes"]:
        raise UserError(_empty(source.spec, split, share, meta))
    return IndexedStream(source.spec, split, [shard], meta["checksum"], meta["skipped"], meta["broken"], check)


class IndexedStream(Stream):
    """The stream of a split of an index."""

    def key(self) -> str:
        text = hashlib.blake2b(f"{self.checksum}/{self.split}/{len(self)}/".encode(), digest_size=12)
        # Two texts of the same bytes may be divided into documents differently.
        (shard,) = self.shards
        text.update(shard.starts(0, shard.length))
        return text.hexdigest()


def _empty(spec: str, split: str, share: float, meta: dict) -> str:
    """Why a split has no bytes, and what gives it some."""
    reason = f"{spec}: the {split} split is empty: a hash of its bytes deals each document, and of "
    reason += f"{meta['documents']} document(s) none "
    if split == "train":
        fix = "lower it, or give it more documents"
        return f"{reason}with bytes is left for training at data.held_out = {share}: {fix}"
    fix, least = "give it more documents, or name data.validation_sources", meta.get("least_share")
    if split == "validation" and least and least > share:
        fix = f"set data.held_out = {least} (which holds out one), {fix}"
    return f"{reason}with bytes falls into its {share:.1%}: {fix}"


def _key(
    source: Source,
    layout: str,
    files: list[tuple[str, str]],
    share: float,
    record_bytes: int,
    tokenizer: Tokenizer | None,
) -> str:
    states = []
    for name, path in files:
        try:
            states.append((name, path, *paths.state(path)))
        except OSError:  # reading the file says what is wrong
            states.append((name, path))
    dealt = [share] if layout == "split" else []
    tokens = [] if tokenizer is None else [tokenizer.checksum]
    text = json.dumps([build.FORMAT, source.identity, layout, *dealt, record_bytes, *tokens, states])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
