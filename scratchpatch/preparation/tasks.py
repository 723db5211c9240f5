"""Reading some files: what the documents are, sorted into runs that shards take their ranges from.

    tasks/00012/0.data     the bytes of documents, in the order of their digests, each once
    tasks/00012/0.index    _ENTRY per document
    tasks/00012/1.data     the next run: one holds what fits in RUN_BYTES
    tasks/00012/task.json  the counts

A task's folder has its name once it is finished.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

import numpy as np
from absl import logging

from scratchpatch.data.records import BadRecords, Broken
from scratchpatch.data.splits import digest
from scratchpatch.errors import UserError
from scratchpatch.json_files import Count
from scratchpatch.preparation.plan import Plan, lower_bound

# The two halves of the digest as numbers, and where the bytes lie.
_ENTRY = np.dtype([("first", "<u8"), ("second", "<u8"), ("start", "<i8"), ("size", "<i8")])
RUN_BYTES = 1 << 27
SECONDS_BETWEEN_LINES = 10
# What a document in memory costs beside its bytes.
_OVERHEAD = 200


class Counts(TypedDict):
    """What a task has counted, as a file has it: `broken` files break off, `bad` has the first messages."""

    documents: Count
    bytes: Count
    skipped: Count
    broken: Count
    bad: list[str]


def read(plan: Plan, files: list[tuple[str, str]], counts: dict) -> Iterator[tuple[bytes, bytes]]:
    """(digest, bytes) of each document of a task. At the end `counts` has its Counts."""
    bad = BadRecords(plan.on_bad_record, plan.record_bytes)
    counts |= {"documents": 0, "bytes": 0}
    next_line = time.monotonic() + SECONDS_BETWEEN_LINES
    for document in plan.source.documents(files, bad):
        try:
            data = b"".join(document.pieces)
        except Broken as broken:
            bad.add(*broken.args)
            continue
        counts["documents"] += 1
        counts["bytes"] += len(data)
        yield digest(data), data
        if time.monotonic() > next_line:
            progress = f"{counts['documents']} documents, {counts['bytes'] / 1e6:.0f} MB so far"
            logging.info("reading from %s on: %s", files[0][0], progress)
            next_line = time.monotonic() + SECONDS_BETWEEN_LINES
    counts |= {"skipped": bad.count, "broken": bad.broken, "bad": bad.messages}


def folder_of(work: Path, task: int) -> Path:
    return work / "tasks" / f"{task:05}"


def run(plan: Plan, task: int, files: list[tuple[str, str]], work: Path) -> None:
    """Read a task's files into its folder, unless that is there. Raises UserError for a bad record, unless skipped;
    OSError where the folder cannot be written.
    """
    place = folder_of(work, task)
    if place.exists():
        return
    partial = place.with_name(f".{task:05}-{uuid.uuid4().hex}")
    partial.mkdir(parents=True)
    try:
        counts, documents, size, number = {}, {}, 0, 0
        for key, data in read(plan, files, counts):
            if key not in documents:
                documents[key] = data
                size += len(data) + _OVERHEAD
            if size > RUN_BYTES:
                _write_run(partial / str(number), documents)
                documents, size, number = {}, 0, number + 1
        if documents:
            _write_run(partial / str(number), documents)
        (partial / "task.json").write_text(json.dumps(counts))
        if not place.exists():
            os.rename(partial, place)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_run(path: Path, documents: dict[bytes, bytes]) -> None:
    order = sorted(documents)
    entries = np.empty(len(order), _ENTRY)
    entries["first"], entries["second"] = np.frombuffer(b"".join(order), ">u8").reshape(-1, 2).T
    entries["size"] = [len(documents[key]) for key in order]
    entries["start"] = np.cumsum(entries["size"]) - entries["size"]
    with open(f"{path}.data", "wb") as file:
        file.writelines(documents[key] for key in order)
    entries.tofile(f"{path}.index")


def documents_of(plan: Plan, shard: int, work: Path) -> Iterator[tuple[bytes, bytes]]:
    """(digest, bytes) of a shard's documents from the runs of all tasks, each once, in the order of the digests. Raises
    UserError where a run is damaged.
    """
    low, high = lower_bound(shard, plan.shards), lower_bound(shard + 1, plan.shards)
    runs, texts = [], []
    for path in sorted(work.glob("tasks/[0-9]*/*.index")):
        entries = np.memmap(path, _ENTRY, "r")
        begin = int(np.searchsorted(entries["first"], np.uint64(low)))
        end = int(np.searchsorted(entries["first"], np.uint64(high))) if high < 2**64 else len(entries)
        if begin < end:
            run = np.array(entries[begin:end])
            with open(path.with_suffix(".data"), "rb") as file:
                file.seek(int(run["start"][0]))
                texts.append(file.read(int(run["start"][-1] + run["size"][-1] - run["start"][0])))
            run["start"] -= run["start"][0]
            runs.append(run)
    if not runs:
        return
    entries = np.concatenate(runs)
    run_N = np.repeat(np.arange(len(runs)), [len(run) for run in runs])
    before = None
    for at in np.lexsort((entries["second"], entries["first"])).tolist():
        first, second, start, size = entries[at].tolist()
        if (first, second) != before:
            before = first, second
            key, data = first.to_bytes(8, "big") + second.to_bytes(8, "big"), texts[run_N[at]][start : start + size]
            if digest(data) != key:
                fix = f"remove {work} and run the same command again"
                raise UserError(f"what was read into {work / 'tasks'} is damaged: {fix}")
            yield key, data
