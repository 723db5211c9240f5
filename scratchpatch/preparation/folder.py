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
import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from absl import logging

from scratchpatch.data import blocks, paths, prepared, sources, splits
from scratchpatch.data.records import skipped
from scratchpatch.errors import UserError
from scratchpatch.places import cache_folder
from scratchpatch.preparation import local, plan, shards

LOCAL = "local"


def prepare(
    spec: str,
    out: str,
    shard_count: int | None = None,
    held_out: float = splits.SHARE,
    on_bad_record: str = "error",
    workers: int = 1,
    runner: str = LOCAL,
    runner_flags: tuple[str, ...] = (),
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

    Returns:
        out, shards, counts and per split documents and bytes, of what JSON has.
    Raises:
        UserError: a bad source or record, a folder of another preparation, no room, or damage.
    """
    made = plan.make(sources.parse(spec), out, shard_count, held_out, on_bad_record)
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
    if meta["bad"]:
        left_out = skipped(meta["counts"]["skipped"], meta["counts"].get("broken", 0))
        logging.warning("%s: %s: %s", spec, left_out, "; ".join(meta["bad"][:3]))
    kept = {name: {k: part[k] for k in ("documents", "bytes")} for name, part in meta["splits"].items()}
    return {"out": made.out, "shards": made.shards, **meta["counts"], "splits": kept}


def _prepare(made: plan.Plan, workers: int, runner: str, runner_flags: tuple[str, ...]) -> dict:
    state = paths.join(made.out, shards.STATE)
    paths.make_folder(paths.join(state, "shards"))
    work = Path(state)
    if paths.is_url(state):
        work = cache_folder() / "prepare" / hashlib.blake2b(made.out.encode(), digest_size=8).hexdigest()
    with _locked(work):
        known = paths.join(state, "plan.json")
        if paths.is_file(known):
            _same(made, json.loads(paths.read_text(known)))
        else:
            # Runs of a preparation whose folder was removed.
            paths.remove(str(work / "tasks"))
            paths.write_text(known, json.dumps(made.identity(), indent=1))
        # What a killed attempt was writing.
        for partial in (*work.glob("tasks/.*"), *work.glob("shard-*")):
            paths.remove(str(partial))
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
    changes = [f"{name}: {known.get(name)} -> {value}" for name, value in made.identity().items() if known.get(name) != value]
    if changes:
        raise UserError(
            f"{made.out} holds another preparation: {'; '.join(changes)}; use another --out, or remove that folder"
        )


def _meta(made: plan.Plan, counts: list[dict]) -> dict:
    """meta.json, from the counts of the tasks and the summaries of the shards."""
    summaries = [json.loads(paths.read_text(shards.summary_path(made, shard))) for shard in range(made.shards)]
    parts = {}
    for split in splits.PARTS:
        own = [summary[split] for summary in summaries if split in summary]
        parts[split] = {
            "documents": sum(shard["documents"] for shard in own),
            "bytes": sum(shard["bytes"] for shard in own),
            "checksum": f"{sum(int(shard['digests'], 16) for shard in own) % 2**128:032x}",
            "shards": own,
        }
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
    return {
        "format": prepared.FORMAT, "block": blocks.BLOCK, "plan": made.identity(), "counts": found, "bad": bad, "splits": parts
    }  # fmt: skip


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
            found = shards.checksum(data, shard["blocks"]) if suffix == blocks.RECORDS else zlib.crc32(data)
        if found != wanted:
            raise UserError(f"the checksum of {path} is wrong: remove the folder and prepare it anew")


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
