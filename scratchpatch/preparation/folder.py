"""From a SPEC to a prepared folder, and on after a kill.

    DIR/meta.json                   written last: the folder is finished
    DIR/*.bin, *.starts             the shards, see `data.shards`
    DIR/.preparing/plan.json        whose preparation it is, until it is finished
    DIR/.preparing/shards/3.json    shard 3 is finished: its entries in meta.json
    DIR/.preparing/tasks/           see `tasks`; where DIR is a URL, in the cache folder
    DIR/.preparing/counts/          of Beam: the counts of each task
"""

import contextlib
import fcntl
import json
import os
import time
from pathlib import Path

from absl import logging

from scratchpatch import config_file
from scratchpatch.data import paths, prepared, sources, splits, tokenizer as tokenizer_lib
from scratchpatch.data.records import RECORD_BYTES, skipped
from scratchpatch.data.shards import FIX, Shard, check_files
from scratchpatch.data.tokenizer import Tokenizer
from scratchpatch.data.work_folder import lock_alone
from scratchpatch.errors import UserError
from scratchpatch.json_files import Malformed
from scratchpatch.preparation import local, plan, shards
from scratchpatch.preparation.plan import Plan

LOCAL = "local"
# So long a preparation that was stopped may be gone on with, where its work lies in the cache.
_ABANDONED_SECONDS = 30 * 86_400


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
    tokenizer: str = "",
) -> dict:
    """Prepare `out`, or go on with it; a folder that is finished is read and compared with its checksums.

    `shard_count` is per split (None: by the size of the files), `workers` are processes of the local runner, `runner`
    is 'local' or the name of a runner of Apache Beam, and `runner_flags` are of Beam, such as '--project=NAME';
    `tokenizer` is a file by which shards get tokens instead of bytes, and the folder a copy of it; see `Plan` for the
    rest. Returns out, shards, counts and per split documents, bytes and tokens, of what JSON has.

    Raises UserError: a bad source or record, a folder of another preparation, no room, or damage.
    """
    tokens_by = tokenizer_lib.read(tokenizer) if tokenizer else None
    made = plan.make(sources.parse(spec), out, shard_count, held_out, on_bad_record, record_bytes, tokens_by)
    state = paths.join(made.out, shards.STATE)
    try:
        meta = prepared.read_meta(made.out)
        if meta is not None:
            _check_same(made, meta["plan"])
            verify(made.out, meta, workers, made.tokenizer)
        else:
            meta = _prepare(made, state, workers, runner, runner_flags)
        paths.remove(state)
    except OSError as error:
        raise UserError(f"cannot write {made.out} ({error}); free space there, or use another --out") from error
    except Malformed as error:
        raise UserError(f"{error}; remove {state} and run the same command again") from error
    counts = meta["counts"]
    if meta["bad"]:
        left_out = skipped(counts["skipped"], counts["broken"])
        logging.warning("%s: %s: %s", spec, left_out, "; ".join(meta["bad"][:3]))
    totals = {split: _totals(entries) for split, entries in meta["splits"].items()}
    return {"out": made.out, "shards": made.shards, **counts, "splits": totals}


def _prepare(made: Plan, state: str, workers: int, runner: str, runner_flags: tuple[str, ...]) -> dict:
    paths.make_folder(paths.join(state, "shards"))
    work = shards.work_folder(made)
    if paths.is_url(state):
        _sweep(work)
    work.mkdir(parents=True, exist_ok=True)
    with open(work / "lock", "a") as lock:
        lock_alone(lock.fileno(), f"another process prepares with {work}: wait for it")
        begun = paths.join(state, "plan.json")
        if paths.is_file(begun):
            _check_same(made, paths.read_json(begun, dict[str, str]))
        else:
            # These are runs of a preparation whose folder was removed.
            paths.remove(str(work / "tasks"))
            paths.write_text(begun, json.dumps(made.identity(), indent=1))
        # A killed attempt was writing these.
        for pattern in ("tasks/.*", "shard-*", "*.tmp", "shards/*.tmp", f"../{prepared.META}.*.tmp"):
            for path in work.glob(pattern):
                paths.remove(str(path))
        missing = shards.missing(made)
        if runner == LOCAL:
            counts = local.run(made, missing, work, workers)
        else:
            from scratchpatch.preparation import beam

            counts = beam.run(made, missing, runner, runner_flags)
        meta = _meta(made, counts)
        if made.tokens_by:
            paths.write_text(paths.join(made.out, config_file.TOKENIZER), made.tokens_by)
        paths.write_text(paths.join(made.out, prepared.META), json.dumps(meta, indent=1))
        paths.remove(str(work))
    return meta


def _check_same(made: Plan, begun: dict[str, str]) -> None:
    now = made.identity()
    names = [name for name in {**now, **begun} if begun.get(name) != now.get(name)]
    changes = [f"{name}: {begun.get(name)} -> {now.get(name)}" for name in names]
    if changes:
        fix = "use another --out, or remove that folder"
        raise UserError(f"{made.out} holds another preparation: {'; '.join(changes)}; {fix}")


def _meta(made: Plan, tasks: list[dict]) -> dict:
    """meta.json, from the counts of the tasks and the summaries of the shards."""
    summaries = [
        paths.read_json(shards.summary_path(made, shard), dict[str, prepared.PreparedEntry])
        for shard in range(made.shards)
    ]
    entries = {split: [summary[split] for summary in summaries if split in summary] for split in splits.SPLITS}
    counts = {name: sum(task[name] for task in tasks) for name in ("documents", "bytes", "skipped", "broken")}
    distinct = [_totals(entries[split]) for split in splits.SPLITS]
    counts["duplicates"] = counts["documents"] - sum(split["documents"] for split in distinct)
    counts["duplicate_bytes"] = counts["bytes"] - sum(split["bytes"] for split in distinct)
    if not any(split["bytes"] for split in distinct):
        raise UserError(f"{made.source.spec}: the source is empty, its {len(made.files)} file(s) hold no bytes")
    bad = [message for task in tasks for message in task["bad"]][:20]
    return prepared.new_meta(made.identity(), counts, bad, entries, made.tokenizer)


def _totals(entries: list[prepared.PreparedEntry]) -> dict[str, int]:
    counts = ("documents", "bytes", "tokens")
    return {count: sum(entry[count] for entry in entries) for count in counts if all(count in e for e in entries)}


def verify(folder: str, meta: dict, workers: int = 1, tokenizer: Tokenizer | None = None) -> None:
    """Read a finished folder. Raises UserError where a file is missing, or does not have its size or checksum."""
    entries = prepared.entries_of(meta)
    with prepared.damage_named():
        check_files(folder, entries, tokenizer_lib.vocabulary(tokenizer))
    sizes = [entry["bytes"] for entry in entries]
    local.each(_verify, [(folder, entry) for entry in entries], sizes, workers, f"verifying {folder}")


def _verify(folder: str, entry: prepared.PreparedEntry) -> None:
    shard = Shard(folder, entry)
    for suffix, path in shard.paths.items():
        if not shard.is_right(suffix):
            raise UserError(f"the checksum of {path} is wrong: {FIX}")


def _sweep(work: Path) -> None:
    """Remove what other preparations have left beside `work` that nobody has gone on with for a month."""
    for other in work.parent.glob("*/lock"):
        with contextlib.suppress(OSError), open(other, "a") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            used = max(os.stat(path).st_mtime for path in (other, other.parent, *other.parent.glob("tasks")))
            if time.time() - used > _ABANDONED_SECONDS:
                paths.remove(str(other.parent))


def table(result: dict) -> str:
    """The result in words."""
    duplicates = f"{result['duplicates']:,} duplicates ({result['duplicate_bytes']:,} bytes) left out"
    left_out = skipped(result["skipped"], result["broken"])
    lines = [
        f"{result['out']}: {result['documents']:,} documents, {result['bytes']:,} bytes read; {duplicates}, {left_out}"
    ]
    for name, split in result["splits"].items():
        tokens = f" in {split['tokens']:,} tokens" if "tokens" in split else ""
        lines.append(f"  {name}: {split['documents']:,} documents, {split['bytes']:,} bytes{tokens}")
    return "\n".join(lines)
