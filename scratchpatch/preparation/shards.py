"""Writing one shard of each split, from the documents whose digests fall into its range."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from scratchpatch.data import paths, splits
from scratchpatch.data.prepared_format import POSITIONS, STARTS, VOCABULARY, pack_starts
from scratchpatch.places import cache_folder
from scratchpatch.preparation.plan import Plan

# The folder within the prepared one of what a killed attempt goes on with; it is gone when all is done.
STATE = ".preparing"
_PLACEHOLDER = bytes(VOCABULARY.dtype.itemsize)


def write(plan: Plan, shard: int, documents: Iterable[tuple[bytes, bytes]]) -> None:
    """Write the shard's files and then its summary, which says that it is finished.

    The summary holds, for each split that has documents, the shard's entry in meta.json.

    Args:
        plan: of the preparation.
        shard: number of the shard.
        documents: (digest, bytes) of its documents, each digest once, in the order of the digests.

    Raises:
        OSError: the files cannot be written.
    """
    work = work_folder(plan)
    # The worker of another machine has no work folder, and takes a temporary one of its own.
    with tempfile.TemporaryDirectory(dir=work if work.is_dir() else None, prefix="shard-") as folder:
        writers = {split: _Writer(Path(folder, plan.name(split, shard))) for split in splits.SPLITS}
        for digest, data in documents:
            writers[splits.split_of(digest, plan.held_out)].add(digest, data)
        entries = {split: writer.finish() for split, writer in writers.items()}
        summary = {split: entry for split, entry in entries.items() if entry["documents"]}
        for entry in summary.values():
            for suffix in (POSITIONS, STARTS):
                name = entry["name"] + suffix
                paths.publish(os.path.join(folder, name), paths.join(plan.out, name))
    paths.write_text(summary_path(plan, shard), json.dumps(summary))


def work_folder(plan: Plan) -> Path:
    """The folder of this machine that a preparation works in."""
    if not paths.is_url(plan.out):
        return Path(plan.out) / STATE
    key = hashlib.blake2b(plan.out.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
    return cache_folder() / "prepare" / key


def missing(plan: Plan) -> list[int]:
    """Numbers of the shards that are not finished."""
    finished = paths.sizes(paths.join(plan.out, STATE, "shards"))
    return [shard for shard in range(plan.shards) if os.path.basename(summary_path(plan, shard)) not in finished]


def summary_path(plan: Plan, shard: int) -> str:
    """Where the summary of a finished shard is."""
    return paths.join(plan.out, STATE, "shards", f"{shard:05}.json")


class _Writer:
    """The files of one shard of one split."""

    def __init__(self, path: Path):
        self._path = path
        self._file = open(f"{path}{POSITIONS}", "wb")
        self._starts: list[int] = []
        self._position = self._checksum = self._digests = 0

    def add(self, digest: bytes, data: bytes) -> None:
        self._starts.append(self._position)
        self._digests = (self._digests + int.from_bytes(digest, "big")) % 2**128
        for piece in (_PLACEHOLDER, data):
            self._file.write(piece)
            self._checksum = zlib.crc32(piece, self._checksum)
            self._position += len(piece) // VOCABULARY.dtype.itemsize

    def finish(self) -> dict:
        """The shard's entry in meta.json."""
        self._file.close()
        starts = pack_starts(np.array(self._starts, np.int64), self._position)
        Path(f"{self._path}{STARTS}").write_bytes(starts)
        return {
            "name": self._path.name,
            "documents": len(self._starts),
            "bytes": (self._position - len(self._starts)) * VOCABULARY.bytes_per_token,
            "digests": f"{self._digests:032x}",
            "checksums": {POSITIONS: self._checksum, STARTS: zlib.crc32(starts)},
        }
