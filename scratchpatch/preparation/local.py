"""A preparation in processes of this machine."""

import concurrent.futures
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from scratchpatch import json_files, output
from scratchpatch.errors import UserError
from scratchpatch.preparation import shards, tasks
from scratchpatch.preparation.plan import Plan
from scratchpatch.progress import Progress


def run(plan: Plan, missing: list[int], work: Path, workers: int) -> list[dict]:
    """Write the shards whose numbers are missing, in some processes; one worker is this process.

    The local folder `work` holds the sorted runs of the tasks; what is there is not read again. Returns the counts of
    every task. Raises UserError: a bad record, or a worker that died; OSError: a file cannot be written.
    """
    sizes = dict(zip((path for _, path in plan.files), plan.sizes, strict=True))
    groups, bare = plan.tasks(), plan.without_files()
    reads = [(bare, task, files, work) for task, files in enumerate(groups)]
    weights = [sum(sizes[path] for _, path in files) for files in groups]
    each(tasks.run, reads, weights, workers, f"reading {plan.source.spec}")
    counts = [json_files.read(tasks.folder_of(work, task) / "task.json", tasks.Counts) for task in range(len(groups))]
    share = sum(count["bytes"] for count in counts) // plan.shards
    each(_write, [(bare, shard, work) for shard in missing], [share] * len(missing), workers, f"writing {plan.out}")
    return counts


def _write(plan: Plan, shard: int, work: Path) -> None:
    shards.write(plan, shard, tasks.documents_of(plan, shard, work))


def each(work: Callable, calls: list[tuple], weights: list[int], workers: int, label: str) -> None:
    """Make all calls, of these bytes each, over processes, and show progress. Raises what the first failure raised."""
    with Progress(total=sum(weights), label=label, unit="B") as progress:
        if min(workers, len(calls)) < 2:
            for call, weight in zip(calls, weights, strict=True):
                work(*call)
                progress.advance(weight, weight)
            return
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(min(workers, len(calls)), context, _start_worker) as pool:
            futures = {pool.submit(work, *call): weight for call, weight in zip(calls, weights, strict=True)}
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
                    progress.advance(futures[future], futures[future])
            except BrokenProcessPool as error:
                fix = "the same command goes on; give it fewer --workers or more --shards"
                raise UserError(f"a worker process died, perhaps for lack of memory: {fix}") from error
            finally:
                pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    """Log as the parent does, and end with it: a worker left over would wait for ever, or write beside the next one."""
    output.log_to_stderr()
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # without a trace of its own

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()
