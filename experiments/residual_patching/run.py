"""Run every variant of the residual patching study on every seed, and write README.md beside this file.

    .venv/bin/python -m experiments.residual_patching.run [--seeds=0,1] [--steps=500] [--workers=2] [--train=0]

Steps of the variants are timed in turns before the first run, and the page is written after each run. Finished runs in
--workdir are kept: the same command goes on after a stop. --train=0 writes the page of those that are finished.
"""

import itertools
import json
import sys
from pathlib import Path

from experiments import corpora, jobs
from experiments.residual_patching import summary
from experiments.residual_patching.config import CORPUS, LONG, STEPS_OF_LONG, VARIANTS, get_config
from scratchpatch.errors import UserError

# What is asked first, of every seed: patches against none, with and without the leak.
_FIRST = ("e", "a", "a_leaky", "a_long")
# Seconds of a core for a thousand positions of E, and a patch model's share of them, audit and compilation included.
_SECONDS, _SHARE = 0.22, 0.35


def main() -> int:
    extra = {
        "train": (1, "0: train nothing"),
        "speed_seconds": (90.0, "time to measure steps for, before the first run"),
    }
    flags = jobs.flags("residual_patching", __doc__, Path(__file__).parent, 500, extra, reads_corpora=False)
    try:
        corpora.require(CORPUS)
    except UserError as error:
        sys.exit(f"residual_patching: {error}")
    runs = {}
    later = [variant for variant in VARIANTS if variant not in _FIRST]
    for seed, variant in [*itertools.product(flags.seeds, _FIRST), *itertools.product(flags.seeds, later)]:
        folder = flags.workdir / f"{variant}-{seed}"
        arguments = [variant, str(seed), str(folder), str(flags.steps), str(flags.eval_bytes)]
        name = f"{variant}, seed {seed}"
        runs[variant, seed] = jobs.Job(name, folder, "experiments.residual_patching.worker", arguments)

    # On a core of its own, as each run is.
    arguments = [str(flags.workdir / "speed"), str(flags.speed_seconds)]
    speed = jobs.Job("steps in turns", flags.workdir / "speed", "experiments.residual_patching.speed", arguments)
    if flags.train or any(job.result.exists() for job in runs.values()):
        jobs.run([speed], 1, "residual_patching, speed")

    def write() -> None:
        results = {run: json.loads(job.result.read_text()) for run, job in runs.items() if job.result.exists()}
        if results:
            flags.output.mkdir(parents=True, exist_ok=True)
            (flags.output / "README.md").write_text(summary.page(results, json.loads(speed.result.read_text())))

    write()
    if flags.train:
        print(plan(flags.seeds, flags.steps, flags.workers), flush=True)
        jobs.run(list(runs.values()), flags.workers, "residual_patching", done=write)
    print(flags.output / "README.md")
    return 0


def plan(seeds: list[int], steps: int, workers: int) -> str:
    """What will be trained, and about how long it takes on quiet cores."""
    config = get_config()
    positions = steps * config.training.batch_rows * config.data.window
    # E, and what runs as long as it does; the others take a patch model's share.
    longest = 1 + len(LONG)
    seconds = len(seeds) * positions / 1000 * _SECONDS * (longest + (len(VARIANTS) - longest) * _SHARE)
    return (
        f"{len(VARIANTS)} variants, seeds {', '.join(map(str, seeds))}: {steps} steps, {positions / 1e6:.1f} MB each "
        f"({', '.join(LONG)}: {STEPS_OF_LONG:g} times as much); about {seconds / 60 / workers:.0f} minutes on "
        f"{workers} cores"
    )


if __name__ == "__main__":
    sys.exit(main())
