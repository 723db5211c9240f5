"""From a SPEC to a prepared folder, and on after a kill.

    DIR/meta.json                   written last: the folder is finished
    DIR/*.array_record, *.starts    see `data.blocks`
    DIR/.preparing/plan.json        whose preparation it is, until it is finished
    DIR/.preparing/shards/3.json    shard 3 is finished: its entries in meta.json
    DIR/.preparing/tasks/           see `tasks`; where DIR is a URL, in the cache folder
    DIR/.preparing/counts/          of Beam: the counts of each task

meta.json: format, block, plan (names and values that a second attempt compares),
counts (documents and bytes read, duplicates and their bytes, skipped bad
records, broken files, whose last records nobody counted), and per split documents, bytes, checksum and shards. A split's checksum
is the sum of its documents' digests, so it does not depend on the shards.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import logging

from scratchpatch.data import blocks, paths, prepared, sources, splits
from scratchpatch.data.records import RECORD_BYTES, skipped
from scratchpatch.errors import UserError
from scratchpatch.json_files import Malformed
from scratchpatch.preparation import local, plan, shards

LOCAL = "local"
# So long a preparation that was stopped may be gone on with, where its work lies in the cache.
_KEPT_SECONDS = 30 * 86_400


def prepare(
    spec: str,
    out: str,
    shard_count: int | None = None,
    held_out: float = splits.SHARE,
    on_bad_record: str = "error",
    workers: int = 1,
    runner: str = LOCAL,
    runner_flags: tuple[str, ...] = (),
    record_bytes: int = RECORD_BYTES,
) -> dict:
    """Prepare `out`, or go on with it; a folder that is finished is read and compared with its checksums.

    Args:
        spec: of the documents.
        out: folder, or URL of one.
        shard_count: per split; None: by the size of the files.
        held_out: share of the documents that validate, and that test.
        on_bad_record: 'error' or 'skip'.
        workers: processes of the local runner.
        runner: 'local', or the name of a runner of Apache Beam.
        runner_flags: of Beam, such as '--project=NAME'.
        record_bytes: the most that one record may hold (see `data.records`).

    Returns:
        out, shards, counts and per split documents and bytes, of what JSON has.
    Raises:
        UserError: a bad source or record, a folder of another preparation, no room, or damage.
    """
    made = plan.make(sources.parse(spec), out, shard_count, held_out, on_bad_record, record_bytes)
    try:
        meta = prepared.read_meta(made.out)
        if meta is not None:
            _same(made, meta["plan"])
            verify(made.out, meta, workers)
        else:
            meta = _prepare(made, workers, runner, runner_flags)
        paths.remove(paths.join(made.out, shards.STATE))
    except OSError as error:
        raise UserError(f"cannot write {made.out} ({error}); free space there, or use another --out") from error
    except Malformed as error:
        state = paths.join(made.out, shards.STATE)
        raise UserError(f"{error}; remove {state} and run the same command again") from error
    if meta["bad"]:
        left_out = skipped(meta["counts"]["skipped"], meta["counts"].get("broken", 0))
        logging.warning("%s: %s: %s", spec, left_out, "; ".join(meta["bad"][:3]))
    kept = {name: {k: part[k] for k in ("documents", "bytes")} for name, part in meta["splits"].items()}
    return {"out": made.out, "shards": made.shards, **meta["counts"], "splits": kept}


def _prepare(made: plan.Plan, workers: int, runner: str, runner_flags: tuple[str, ...]) -> dict:
    state = paths.join(made.out, shards.STATE)
    paths.make_folder(paths.join(state, "shards"))
    work = shards.work_folder(made)
    if paths.is_url(state):
        _sweep(work)
    with _locked(work):
        known = paths.join(state, "plan.json")
        if paths.is_file(known):
            _same(made, paths.read_json(known, dict[str, str]))
        else:
            # Runs of a preparation whose folder was removed.
            paths.remove(str(work / "tasks"))
            paths.write_text(known, json.dumps(made.identity(), indent=1))
        # What a killed attempt was writing.
        for partial in ("tasks/.*", "shard-*", "*.tmp", "shards/*.tmp", f"../{prepared.META}.*.tmp"):
            for path in work.glob(partial):
                paths.remove(str(path))
        missing = shards.missing(made)
        if runner == LOCAL:
            counts = local.run(made, missing, work, workers)
        else:
            from scratchpatch.preparation import beam

            counts = beam.run(made, missing, runner, runner_flags)
        meta = _meta(made, counts)
        paths.write_text(paths.join(made.out, prepared.META), json.dumps(meta, indent=1))
        paths.remove(str(work))
    return meta


def _same(made: plan.Plan, known: dict[str, str]) -> None:
    """Raise UserError unless the folder is this plan's own."""
    known = {"record_bytes": str(RECORD_BYTES)} | known
    changes = [f"{name}: {known.get(name)} -> {value}" for name, value in made.identity().items() if known.get(name) != value]
    if changes:
        raise UserError(
            f"{made.out} holds another preparation: {'; '.join(changes)}; use another --out, or remove that folder"
        )


def _meta(made: plan.Plan, counts: list[dict]) -> dict:
    """meta.json, from the counts of the tasks and the summaries of the shards."""
    summaries = [paths.read_json(shards.summary_path(made, shard), dict[str, prepared.ShardEntry]) for shard in range(made.shards)]
    parts = {}
    for split in splits.PARTS:
        own = [summary[split] for summary in summaries if split in summary]
        parts[split] = {
            "documents": sum(shard["documents"] for shard in own),
            "bytes": sum(shard["bytes"] for shard in own),
            "checksum": prepared.checksum(own),
            "shards": own,
        }
        try:
            prepared.check_split(made.out, parts[split])
        except ValueError as error:
            raise Malformed(f"{paths.join(made.out, shards.STATE, 'shards')}: {error}") from error
    read = {name: sum(count.get(name, 0) for count in counts) for name in ("documents", "bytes", "skipped", "broken")}
    if not sum(part["bytes"] for part in parts.values()):
        raise UserError(f"{made.source.spec}: the source is empty, its {len(made.files)} file(s) hold no bytes")
    found = {
        "documents": read["documents"],
        "bytes": read["bytes"],
        "duplicates": read["documents"] - sum(part["documents"] for part in parts.values()),
        "duplicate_bytes": read["bytes"] - sum(part["bytes"] for part in parts.values()),
        "skipped": read["skipped"],
        "broken": read["broken"],
    }
    bad = [message for count in counts for message in count["bad"]][:20]
    meta = {"format": prepared.FORMAT, "block": blocks.BLOCK, "plan": made.identity(), "counts": found, "bad": bad, "splits": parts}
    return prepared.sealed(meta)


def verify(folder: str, meta: dict, workers: int = 1) -> None:
    """Read a finished folder. Raises UserError where a file is not what its checksum says."""
    every = [shard for part in meta["splits"].values() for shard in part["shards"]]
    prepared.check_sizes(folder, every)
    calls = [(folder, shard) for shard in every]
    local.each(_verify, calls, [shard["bytes"] for shard in every], workers, f"verifying {folder}")


def _verify(folder: str, shard: dict) -> None:
    for suffix, wanted in shard["checksums"].items():
        path = paths.join(folder, shard["name"] + suffix)
        with contextlib.ExitStack() as stack:
            if paths.is_url(path):
                data = np.frombuffer(stack.enter_context(paths.open_read(path)).read(), np.uint8)
            else:
                data = np.memmap(path, np.uint8, "r")
            found = blocks.checksum(data, shard["blocks"]) if suffix == blocks.RECORDS else zlib.crc32(data)
        if found != wanted:
            raise UserError(f"the checksum of {path} is wrong: remove the folder and prepare it anew")


def _sweep(work: Path) -> None:
    """Remove what other preparations have left beside `work` that nobody has gone on with for a month."""
    for other in work.parent.glob("*/lock"):
        with contextlib.suppress(OSError), open(other, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - max(os.stat(path).st_mtime for path in (other, other.parent, *other.parent.glob("tasks"))) > _KEPT_SECONDS:
                paths.remove(str(other.parent))


@contextlib.contextmanager
def _locked(work: Path) -> Iterator[None]:
    """Hold the work folder alone. Raises UserError where another process holds it."""
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"another process prepares with {work}: wait for it") from error
        yield


def table(result: dict) -> str:
    """The result in words."""
    lines = [
        f"{result['out']}: {result['documents']:,} documents, {result['bytes']:,} bytes read; "
        f"{result['duplicates']:,} duplicates ({result['duplicate_bytes']:,} bytes) left out, {skipped(result['skipped'], result['broken'])}"
    ]
    lines += [f"  {name}: {part['documents']:,} documents, {part['bytes']:,} bytes" for name, part in result["splits"].items()]
    return "\n".join(lines)
