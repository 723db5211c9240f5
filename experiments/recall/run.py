"""Train every variant of the recall study, and write README.md beside this file.

    .venv/bin/python -m experiments.recall.run [--seeds=0,1] [--steps=2500] [--workers=2] [--train=0]

Seeds and learning rates of a variant train side by side in one process. Finished ones in --workdir are kept: the same
command goes on after a stop. --train=0 writes the page of those that are finished.
"""

import argparse
import os
import sys
from pathlib import Path

from experiments import jobs
from experiments.recall import summary
from experiments.recall.grid import GRID
from scratchpatch.errors import UserError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1", help="seeds, each of weights and of documents")
    parser.add_argument("--steps", type=int, default=2500, help="most training steps")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="variants at a time, one core each")
    parser.add_argument("--workdir", type=Path, default=Path("runs/recall"), help="folder of the runs")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder of README.md")
    parser.add_argument("--train", type=int, default=1, help="0: train nothing")
    flags = parser.parse_args()
    os.chdir(jobs.ROOT)
    workdir, runs = flags.workdir.resolve(), []
    workdir.mkdir(parents=True, exist_ok=True)
    for cell in GRID:
        folder = workdir / cell.name
        arguments = [cell.variant, str(flags.steps), str(folder), *cell.lanes(flags.seeds.split(","))]
        runs.append(jobs.Job(cell.name, folder, "experiments.recall.worker", arguments))
    if flags.train:
        jobs.run(runs, flags.workers, "recall")
    try:
        summary.write(flags.output, [job.result for job in runs if job.result.exists()])
    except UserError as error:
        sys.exit(f"recall: {error}")
    print(flags.output / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
