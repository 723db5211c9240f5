"""Writing one shard of each split, from the documents whose digests fall into its range."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from array_record.python.array_record_module import ArrayRecordWriter

from scratchpatch.data import blocks, paths, splits
from scratchpatch.places import cache_folder
from scratchpatch.preparation.plan import Plan

# Folder in the prepared one of what goes on after a kill; gone when all is done.
STATE = ".preparing"


def write(plan: Plan, shard: int, documents: Iterable[tuple[bytes, bytes]]) -> dict:
    """Write the shard's files and then its summary, which says that it is finished.

    Args:
        plan: of the preparation.
        shard: number of the shard.
        documents: (digest, bytes) of its documents, each digest once, in the order of the digests.

    Returns:
        Split to the shard's entry in meta.json; a split without documents has none.
    Raises:
        OSError: the files cannot be written, or one does not read as what was written.
    """
    work = work_folder(plan)
    # Another machine's worker has no work folder, and a temporary one of its own.
    local = work if work.is_dir() else None
    with tempfile.TemporaryDirectory(dir=local, prefix="shard-") as folder:
        writers = {split: _Writer(Path(folder, plan.name(split, shard))) for split in splits.PARTS}
        for found, data in documents:
            writers[splits.split_of(found, plan.held_out)].add(found, data)
        summary = {}
        for split, writer in writers.items():
            about = writer.finish()
            if about["documents"]:
                summary[split] = {"name": plan.name(split, shard)} | about
                for suffix in about["sizes"]:
                    name = plan.name(split, shard) + suffix
                    paths.publish(os.path.join(folder, name), paths.join(plan.out, name))
    paths.write_text(summary_path(plan, shard), json.dumps(summary))
    return summary


def work_folder(plan: Plan) -> Path:
    """The folder of this machine that a preparation works in."""
    if not paths.is_url(plan.out):
        return Path(plan.out) / STATE
    return cache_folder() / "prepare" / hashlib.blake2b(plan.out.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()


def missing(plan: Plan) -> list[int]:
    """Numbers of the shards that are not finished."""
    there = paths.sizes(paths.join(plan.out, STATE, "shards"))
    return [shard for shard in range(plan.shards) if os.path.basename(summary_path(plan, shard)) not in there]


def summary_path(plan: Plan, shard: int) -> str:
    """Where the summary of a finished shard is."""
    return paths.join(plan.out, STATE, "shards", f"{shard:05}.json")


class _Writer:
    """The blocks and starts of one shard of one split."""

    def __init__(self, path: Path):
        self._path = path
        self._records = f"{path}{blocks.RECORDS}"
        self._writer = ArrayRecordWriter(self._records, blocks.WRITER_OPTIONS)
        self._buffer = bytearray()
        self._starts: list[int] = []
        self._bytes = self._blocks = self._checksum = self._digests = 0

    def add(self, found: bytes, data: bytes) -> None:
        self._starts.append(self._bytes + len(self._starts))
        self._bytes += len(data)
        self._digests = (self._digests + int.from_bytes(found, "big")) % 2**128
        self._buffer += b"\0"
        self._buffer += data
        whole = len(self._buffer) // blocks.BLOCK * blocks.BLOCK
        if whole:
            self._write(self._buffer[:whole])
            del self._buffer[:whole]

    def _write(self, data: bytearray) -> None:
        self._checksum = zlib.crc32(data, self._checksum)
        try:
            for start in range(0, len(data), blocks.BLOCK):
                self._writer.write(bytes(data[start : start + blocks.BLOCK]))
        except (RuntimeError, ValueError) as error:
            raise self._unwritable(error) from error
        self._blocks += len(data) // blocks.BLOCK

    def _unwritable(self, reason: object) -> OSError:
        return OSError(errno.EIO, " ".join(str(reason).split())[:200], self._records)

    def finish(self) -> dict:
        """The shard's entry in meta.json, without its name."""
        if self._buffer:
            self._write(self._buffer.ljust(blocks.BLOCK, b"\0"))
        try:
            self._writer.close()
        except (RuntimeError, ValueError) as error:
            raise self._unwritable(error) from error
        packed = blocks.pack_starts(np.array(self._starts, np.int64), self._blocks)
        Path(f"{self._path}{blocks.STARTS}").write_bytes(packed)
        if self._blocks and blocks.checksum(np.memmap(self._records, np.uint8, "r"), self._blocks) != self._checksum:
            raise self._unwritable("it does not read as it was written: the disk, or array_record's file format")
        return {
            "documents": len(self._starts),
            "bytes": self._bytes,
            "positions": self._bytes + len(self._starts),
            "blocks": self._blocks,
            "digests": f"{self._digests:032x}",
            "checksums": {blocks.RECORDS: self._checksum, blocks.STARTS: zlib.crc32(packed)},
            "sizes": {blocks.RECORDS: os.path.getsize(self._records), blocks.STARTS: len(packed)},
        }
