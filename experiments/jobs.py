"""Runs of a study, several at a time, each in a process of its own; and the flags that studies share.

Each has a core of its own, or they share an accelerator.
"""

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
from scratchpatch import heap, platforms
from scratchpatch.errors import UserError
from scratchpatch.progress import Progress

ROOT = Path(__file__).resolve().parents[1]
# Runs that share an accelerator take its memory as they need it, and multiply float32 as a CPU does.
_SHARED = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_DEFAULT_MATMUL_PRECISION": "highest"}


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
    at_a_time = "runs at a time: each has a core, or they share an accelerator"
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help=at_a_time)
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
    """Run the jobs that have no result yet, in this order; pinned: each on a core of its own, where there is no
    accelerator. done: called after each.

    Raises:
      RuntimeError: one failed; names its log.
    """
    missing = [job for job in jobs if not job.result.exists()]
    shared = platforms.accelerator()
    environment = (_SHARED if shared else {}) | os.environ | heap.settings()
    cores = queue.Queue()
    for core in range(workers):
        cores.put(core % os.cpu_count() if pinned and not shared else None)
    with (
        concurrent.futures.ThreadPoolExecutor(workers) as pool,
        Progress(total=len(jobs), first=len(jobs) - len(missing), label=label, unit="runs") as progress,
    ):
        submitted = [pool.submit(_run_one, job, cores, environment) for job in missing]
        for finished in concurrent.futures.as_completed(submitted):
            progress.advance(1, 0)
            progress.note(f"{finished.result()}: done")
            done()


def _run_one(job: Job, cores: queue.Queue, environment: dict[str, str]) -> str:
    core = cores.get()
    job.folder.mkdir(parents=True, exist_ok=True)
    try:
        with (job.folder / "log").open("a") as log:
            command = [sys.executable, "-m", job.module, *job.arguments]
            process = subprocess.Popen(command, stdout=log, stderr=log, env=environment)
            if core is not None and hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(process.pid, {core})
            if process.wait():
                raise RuntimeError(f"{job.name} failed: see {job.folder / 'log'}")
    finally:
        cores.put(core)
    return job.name
