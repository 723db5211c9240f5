"""Writing one shard of each split, from the documents whose digests fall into its range."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from scratchpatch.data import paths, splits
from scratchpatch.data.shards import POSITIONS, STARTS, Writer
from scratchpatch.places import cache_folder
from scratchpatch.preparation.plan import Plan

# The folder within the prepared one of what a killed attempt goes on with; it is gone when all is done.
STATE = ".preparing"


def write(plan: Plan, shard: int, documents: Iterable[tuple[bytes, bytes]]) -> None:
    """Write the shard's files and then its summary, which says that it is finished.

    The summary holds, for each split that has documents, the shard's entry in meta.json. `documents` are (digest,
    bytes) of the shard's, each digest once, in the order of the digests. Raises OSError.
    """
    work = work_folder(plan)
    # The worker of another machine has no work folder, and takes a temporary one of its own.
    with tempfile.TemporaryDirectory(dir=work if work.is_dir() else None, prefix="shard-") as folder:
        number = f"{shard:05}-of-{plan.shards:05}"
        writers = {split: Writer(Path(folder), f"{split}-{number}", plan.tokenizer) for split in splits.SPLITS}
        digests = dict.fromkeys(splits.SPLITS, 0)
        for digest, data in documents:
            split = splits.split_of(splits.place(digest), plan.held_out)
            digests[split] += int.from_bytes(digest, "big")
            writers[split].begin_document()
            writers[split].write(data)
        entries = {split: writer.finish() for split, writer in writers.items()}
        summary = {
            split: entry | {"digests": f"{digests[split] % 2**128:032x}"}
            for split, entry in entries.items()
            if entry["documents"]
        }
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
