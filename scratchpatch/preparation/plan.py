"""What a preparation will write, and where a document belongs by its bytes alone."""

from __future__ import annotations

import dataclasses
import hashlib
import json

from scratchpatch import config_file
from scratchpatch.data import paths, prepared
from scratchpatch.data.records import RECORD_BYTES
from scratchpatch.data.sources import Source
from scratchpatch.data.tokenizer import Tokenizer, parse
from scratchpatch.errors import UserError

_HALF = 1 << 64
# Bytes of input that one task reads, about, and that one shard is for.
TASK_BYTES = 1 << 26
SHARD_BYTES = 1 << 28


def shard_of(digest: bytes, shards: int) -> int:
    """The shard of a document. Shards are equal ranges of the digest's first half, and so all documents in order."""
    return int.from_bytes(digest[:8], "big") * shards // _HALF


def lower_bound(shard: int, shards: int) -> int:
    """The least first half of a digest that falls into a shard; that of shard number `shards` would be 2^64."""
    return -(-shard * _HALF // shards)


@dataclasses.dataclass(frozen=True)
class Plan:
    """One preparation: equal plans write equal folders."""

    source: Source
    files: tuple[tuple[str, str], ...]  # (name, path) of all files of the source
    sizes: tuple[int, ...]  # of each file in bytes
    files_state: str  # tells two states of the files apart
    out: str  # the folder
    shards: int  # of each split
    held_out: float  # share of the documents that validate, and that test
    on_bad_record: str  # 'error' or 'skip'
    record_bytes: int = RECORD_BYTES  # the most that one record may hold
    tokens_by: str = ""  # the contents of the tokenizer's file; '': shards of bytes

    @property
    def tokenizer(self) -> Tokenizer | None:
        """Of the shards; made by each worker for itself."""
        return parse(self.tokens_by, config_file.TOKENIZER) if self.tokens_by else None

    def tasks(self) -> list[list[tuple[str, str]]]:
        """Files in groups of about TASK_BYTES, in order."""
        groups, room = [], 0
        for file, size in zip(self.files, self.sizes, strict=True):
            if size > room or not groups:
                groups.append([])
                room = TASK_BYTES
            groups[-1].append(file)
            room -= size
        return groups

    def without_files(self) -> Plan:
        """What a worker needs beside the files of its task: there may be millions of others."""
        return dataclasses.replace(self, files=(), sizes=())

    def identity(self) -> dict[str, str]:
        """What must be the same where a preparation goes on; by name, for people to read."""
        identity = {"format": prepared.FORMAT, "source": ":".join(self.source.identity), "files": self.files_state}
        for name in ("shards", "held_out", "on_bad_record", "record_bytes"):
            identity[name] = getattr(self, name)
        if self.tokenizer is not None:
            identity["tokenizer"] = self.tokenizer.checksum
        return {name: str(value) for name, value in identity.items()}


def make(
    source: Source,
    out: str,
    shards: int | None,
    held_out: float,
    on_bad_record: str,
    record_bytes: int = RECORD_BYTES,
    tokenizer: Tokenizer | None = None,
) -> Plan:
    """The plan for the source as it is now. Raises UserError where it has no files, or they cannot be seen."""
    files = tuple(source.files())
    try:
        states = [paths.state(path) for _, path in files]
        sizes = tuple(paths.size(path) for _, path in files)
    except OSError as error:
        raise UserError(f"{source.spec}: a file cannot be read ({error})") from error
    shards = shards or max(-(-sum(sizes) // SHARD_BYTES), 1)
    digest = hashlib.blake2b(json.dumps([files, states]).encode(), digest_size=8).hexdigest()
    state = f"{len(files)} of state {digest}"
    text = "" if tokenizer is None else tokenizer.text
    return Plan(source, files, sizes, state, paths.absolute(out), shards, held_out, on_bad_record, record_bytes, text)
