"""Runs of a study, several at a time, each in a process of its own on one core."""

import concurrent.futures
import dataclasses
import os
import queue
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from scratchpatch.progress import Progress


@dataclasses.dataclass(frozen=True)
class Job:
    """`python -m module arguments` that leaves folder/result.json; its output goes to folder/log."""

    name: str
    folder: Path
    module: str
    arguments: Sequence[str]

    @property
    def result(self) -> Path:
        return self.folder / "result.json"


def run(jobs: Sequence[Job], workers: int, label: str) -> None:
    """Run the jobs that have no result yet, in this order.

    Raises:
      RuntimeError: one failed; names its log.
    """
    missing = [job for job in jobs if not job.result.exists()]
    cores = queue.Queue()
    for core in range(workers):
        cores.put(core % os.cpu_count())
    with (
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
        Progress(total=len(jobs), first=len(jobs) - len(missing), label=label, unit="runs") as progress,
    ):
        for done in concurrent.futures.as_completed(pool.submit(_one, job, cores) for job in missing):
            progress.advance(1, 0)
            progress.note(f"{done.result()}: done")


def _one(job: Job, cores: queue.Queue) -> str:
    core = cores.get()
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        with (job.folder / "log").open("a") as log:
            process = subprocess.Popen([sys.executable, "-m", job.module, *job.arguments], stdout=log, stderr=log)
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(process.pid, {core})
            if process.wait():
                raise RuntimeError(f"{job.name} failed: see {job.folder / 'log'}")
    finally:
        cores.put(core)
    return job.name
