"""Run every variant of the trigger study on every seed, then write README.md beside this file.

    .venv/bin/python -m experiments.triggers.run [--seeds=0,1] [--steps=1000] [--workers=2]

Finished runs in --workdir are kept: the same command goes on after a stop.
"""

import sys
from pathlib import Path

from experiments import jobs
from experiments.triggers import summary, texts
from experiments.triggers.config import VARIANTS, WINDOW, get_config
from scratchpatch.data.mixture import streams_for

_FLAGS = {
    "batch_rows": (4, "rows of 256 bytes in a step"),
    "slice_bytes": (4_000_000, "training bytes of each corpus"),
    "dtype": ("float32", "training.dtype"),
    "limit": (0, "seconds after which a seed stops training and is measured as it is; 0: never"),
    "pinned": (1, "each run on a core of its own; 0: where a GPU does the work"),
}


def main() -> int:
    flags = jobs.flags("triggers", __doc__, Path(__file__).parent, steps=1000, extra=_FLAGS)
    text = flags.workdir.resolve() / "texts"
    texts.write(text, flags.slice_bytes)
    for split in ("train", "validation"):
        # Once, and not by every worker.
        streams_for(get_config(VARIANTS[0], text), split)
    flags.output.mkdir(parents=True, exist_ok=True)
    results = flags.output.resolve() / "results.jsonl"
    numbers = flags.steps, flags.batch_rows, flags.eval_bytes // (3 * WINDOW), flags.limit
    sizes = [str(number) for number in numbers]
    seeds = ",".join(map(str, flags.seeds))
    runs = []
    for variant in VARIANTS:
        folder = flags.workdir / variant
        # All seeds of a variant, one after the other: they share their compiled programs.
        arguments = [variant, seeds, str(folder), str(text), str(results), *sizes, flags.dtype]
        runs.append(jobs.Job(variant, folder, "experiments.triggers.worker", arguments))
    folder = flags.workdir / "recall"
    runs.append(jobs.Job("recall", folder, "experiments.triggers.recall", [seeds, str(folder), str(results)]))
    jobs.run(runs, flags.workers, "triggers", bool(flags.pinned))
    summary.write(flags.output, results)
    print(flags.output / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
