"""Run every variant of the patch-lag study on every seed, then write README.md beside this file.

    .venv/bin/python -m experiments.patch_lag.run [--seeds=0,1] [--steps=1000] [--workers=2]

Finished runs in --workdir are kept: the same command goes on after a stop.
"""

import argparse
import concurrent.futures
import os
import queue
import subprocess
import sys
from pathlib import Path

from experiments.patch_lag import summary
from experiments.patch_lag.config import DATA, VARIANTS
from scratchpatch.training.progress import Progress

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1", help="seeds, each a pair of initialisation and data order")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of 1024 bytes")
    parser.add_argument("--eval_bytes", type=int, default=150_000, help="validation bytes, half books, half code")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs at a time, one core each")
    parser.add_argument("--workdir", type=Path, default=Path("runs/patch_lag"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder of README.md and figures")
    flags = parser.parse_args()
    os.chdir(ROOT)
    if not Path(DATA).is_dir():
        print(f"patch_lag: {DATA} does not exist: it holds the corpora (see experiments/patch_lag/config.py)", file=sys.stderr)
        return 1
    seeds = [int(seed) for seed in flags.seeds.split(",")]
    # The longest runs first, so that no core waits at the end.
    cost = {"byte": 0, "p16_every": 1, "p16_every_last": 1}
    jobs = [(v, seed) for seed in seeds for v in sorted(VARIANTS, key=lambda v: cost.get(v, 2))]
    missing = [job for job in jobs if not (folder(flags.workdir, *job) / "result.json").exists()]
    cores = queue.Queue()
    for core in range(flags.workers):
        cores.put(core % os.cpu_count())
    with concurrent.futures.ThreadPoolExecutor(flags.workers) as pool, Progress(total=len(jobs), first=len(jobs) - len(missing), label="patch_lag", unit="runs") as progress:
        for done in concurrent.futures.as_completed(
            pool.submit(run, job, folder(flags.workdir, *job), flags.steps, flags.eval_bytes, cores) for job in missing
        ):
            progress.advance(1, 0)
            progress.note(done.result())
    summary.write(flags.output, {job: folder(flags.workdir, *job) / "result.json" for job in jobs})
    print(flags.output / "README.md")
    return 0


def folder(workdir: Path, variant: str, seed: int) -> Path:
    return workdir / f"{variant}-{seed}"


def run(job: tuple[str, int], workdir: Path, steps: int, eval_bytes: int, cores: queue.Queue) -> str:
    """Train and measure one variant in a process of its own, on one core."""
    core, (variant, seed) = cores.get(), job
    workdir.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "experiments.patch_lag.worker", variant, str(seed), str(workdir), str(steps), str(eval_bytes)]
    try:
        with (workdir / "log").open("a") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
            if hasattr(os, "sched_setaffinity"):
                os.sched_setaffinity(process.pid, {core})
            if process.wait():
                raise RuntimeError(f"{variant}, seed {seed} failed: see {workdir / 'log'}")
    finally:
        cores.put(core)
    return f"{variant}, seed {seed}: done"


if __name__ == "__main__":
    sys.exit(main())
