"""Runs of a study, several at a time, each in a process of its own on one core; and the flags that studies share."""

import argparse
import concurrent.futures
import dataclasses
import os
import queue
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from experiments import corpora
from scratchpatch import heap
from scratchpatch.errors import UserError
from scratchpatch.progress import Progress

ROOT = Path(__file__).resolve().parents[1]


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


def flags(
    name: str,
    description: str,
    page: Path,
    steps: int | None = 1000,
    extra: dict[str, tuple[Any, str]] | None = None,
    seeds: str = "0,1",
    reads_corpora: bool = True,
) -> argparse.Namespace:
    """The flags of a study, which goes on in the repository's folder. Of one that reads the corpora the program ends
    here where they are not there, with one line and exit code 1.

    Args:
      name: of the study; its runs are in runs/NAME by default.
      description: the study's docstring.
      page: default folder of the page that it writes.
      steps: default number of training steps; None: there is no such flag.
      extra: flags of this study alone, by name: their default, and what they mean.
      seeds: default seeds.
      reads_corpora: whether the study reads the corpora of $SCRATCHPATCH_DATA.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default=seeds, help="seeds, each a pair of initialisation and data order")
    if steps is not None:
        parser.add_argument("--steps", type=int, default=steps, help="training steps")
    parser.add_argument("--eval_bytes", type=int, default=150_000, help="validation bytes of a run")
    for flag, (default, meaning) in (extra or {}).items():
        parser.add_argument(f"--{flag}", type=type(default), default=default, help=meaning)
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs at a time, one core each")
    runs = Path("runs", name)
    parser.add_argument("--workdir", type=Path, default=runs, help="folder of the runs, in the repository")
    parser.add_argument("--output", type=Path, default=page, help="folder of README.md and its figures")
    parsed = parser.parse_args()
    parsed.seeds = [int(seed) for seed in parsed.seeds.split(",")]
    os.chdir(ROOT)
    if reads_corpora:
        try:
            corpora.require()
        except UserError as error:
            sys.exit(f"{name}: {error}")
    return parsed


def run(
    jobs: Sequence[Job], workers: int, label: str, pinned: bool = True, done: Callable[[], None] = lambda: None
) -> None:
    """Run the jobs that have no result yet, in this order; pinned: each on a core of its own. done: called after each.

    Raises:
      RuntimeError: one failed; names its log.
    """
    missing = [job for job in jobs if not job.result.exists()]
    cores = queue.Queue()
    for core in range(workers):
        cores.put(core % os.cpu_count() if pinned else None)
    with (
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
        Progress(total=len(jobs), first=len(jobs) - len(missing), label=label, unit="runs") as progress,
    ):
        for finished in concurrent.futures.as_completed(pool.submit(_run_one, job, cores) for job in missing):
            progress.advance(1, 0)
            progress.note(f"{finished.result()}: done")
            done()


def _run_one(job: Job, cores: queue.Queue) -> str:
    core = cores.get()
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        with (job.folder / "log").open("a") as log:
            command = [sys.executable, "-m", job.module, *job.arguments]
            process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | heap.settings())
            if core is not None and hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(process.pid, {core})
            if process.wait():
                raise RuntimeError(f"{job.name} failed: see {job.folder / 'log'}")
    finally:
        cores.put(core)
    return job.name
