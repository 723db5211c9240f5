"""Run every variant of the patch-lag study on every seed, then write README.md beside this file.

    .venv/bin/python -m experiments.patch_lag.run [--seeds=0,1] [--steps=1000] [--workers=2]

Finished runs in --workdir are kept: the same command goes on after a stop.
"""

import sys
from pathlib import Path

from experiments import jobs
from experiments.patch_lag import summary
from experiments.patch_lag.config import VARIANTS

# The slowest variants come first, so that no core waits at the end.
_SLOWEST = ("byte", "p16_every", "p16_every_last", "p16_every_concat")


def main() -> int:
    flags = jobs.flags("patch_lag", __doc__, Path(__file__).parent)
    variants = [*_SLOWEST, *(variant for variant in VARIANTS if variant not in _SLOWEST)]
    runs = {}
    for seed in flags.seeds:
        for variant in variants:
            folder = flags.workdir / f"{variant}-{seed}"
            arguments = [variant, str(seed), str(folder), str(flags.steps), str(flags.eval_bytes)]
            runs[variant, seed] = jobs.Job(f"{variant}, seed {seed}", folder, "experiments.patch_lag.worker", arguments)
    jobs.run(list(runs.values()), flags.workers, "patch_lag")
    summary.write(flags.output, {run: job.result for run, job in runs.items()})
    print(flags.output / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
