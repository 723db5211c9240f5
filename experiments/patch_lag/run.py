"""Run every variant of the patch-lag study on every seed, then write README.md beside this file.

    .venv/bin/python -m experiments.patch_lag.run [--seeds=0,1] [--steps=1000] [--workers=2]

Finished runs in --workdir are kept: the same command goes on after a stop.
"""

import argparse
import os
import sys
from pathlib import Path

from experiments import jobs as jobs_lib
from experiments.jobs import Job
from experiments.patch_lag import summary
from experiments.patch_lag.config import DATA, VARIANTS

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
    runs = {job: folder(flags.workdir, *job) for job in jobs}
    rest = [str(flags.steps), str(flags.eval_bytes)]
    module = "experiments.patch_lag.worker"
    jobs_lib.run(
        [Job(f"{v}, seed {s}", path, module, [v, str(s), str(path), *rest]) for (v, s), path in runs.items()],
        flags.workers,
        "patch_lag",
    )
    summary.write(flags.output, {job: path / "result.json" for job, path in runs.items()})
    print(flags.output / "README.md")
    return 0


def folder(workdir: Path, variant: str, seed: int) -> Path:
    return workdir / f"{variant}-{seed}"


if __name__ == "__main__":
    sys.exit(main())
