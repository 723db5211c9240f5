"""The first experiments that a reader of the BLT paper makes, small: trains, measures, writes README.md beside this file.

    .venv/bin/python -m experiments.blt.run [--seeds=0,1] [--steps=1000] [--workers=2]

Finished runs in --workdir are kept: the same command goes on after a stop.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path

from experiments import jobs as jobs_lib
from experiments.blt import compute, entropy_corpora, small, summary
from experiments.blt.difficulty import VARIANTS, get_config
from experiments.jobs import Job
from scratchpatch import compilation_cache
from scratchpatch.evaluation.calibrate import calibrate
from scratchpatch.files import replace_text
from scratchpatch.inference import loading
from scratchpatch.interop.export import export
from scratchpatch.training.loop import train

ROOT = Path(__file__).resolve().parents[2]
_SAMPLE_BYTES = 200_000


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="0,1", help="seeds, each a pair of initialisation and data order")
    parser.add_argument("--steps", type=int, default=1000, help="training steps of 1024 bytes")
    parser.add_argument("--eval_bytes", type=int, default=150_000, help="validation bytes of each corpus")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="runs at a time, one core each")
    parser.add_argument("--workdir", type=Path, default=Path("runs/blt"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent, help="folder of README.md")
    flags = parser.parse_args()
    os.chdir(ROOT)
    if not Path(entropy_corpora.DATA).is_dir():
        print(f"blt: {entropy_corpora.DATA} does not exist: it holds the corpora (see entropy_corpora.py)", file=sys.stderr)
        return 1
    compilation_cache.enable()
    if not train(entropy_corpora.get_config(), small.ENTROPY_RUN):
        return 1
    thresholds = {corpus: threshold(corpus, flags.workdir) for corpus in entropy_corpora.CORPORA}
    jobs = {}
    for seed in map(int, flags.seeds.split(",")):
        for variant in VARIANTS:
            folder = flags.workdir / f"{variant}-{seed}"
            level = thresholds[variant.partition("-")[2]]["threshold"]
            arguments = [variant, str(seed), str(folder), str(level), str(flags.steps), str(flags.eval_bytes)]
            jobs[variant, seed] = Job(f"{variant}, seed {seed}", folder, "experiments.blt.worker", arguments)
    jobs_lib.run(list(jobs.values()), flags.workers, "blt")
    costs = flags.workdir / "compute.txt"
    if not costs.exists():
        replace_text(costs, compute.table(compute.rows(), compute.bytes_per_second(60.0)) + "\n")
    results = {job: json.loads(run.result.read_text()) for job, run in jobs.items()}
    (flags.output / "README.md").write_text(summary.page(results, thresholds, costs.read_text()))
    print(flags.output / "README.md")
    return 0


def threshold(corpus: str, workdir: Path) -> dict:
    """What `scratchpatch calibrate` finds for patches of 4 bytes in a corpus, with a model that is not trained yet."""
    folder = workdir / f"untrained-{corpus}"
    path = folder / "threshold.json"
    if not path.exists():
        shutil.rmtree(folder, ignore_errors=True)
        config = get_config(f"entropy-{corpus}")
        lm = loading.init(config)
        lm.weights["frozen"] = {"entropy_model": loading.load(small.ENTROPY_RUN).weights["params"]}
        export(lm, folder)
        found = calibrate(folder, bytes_per_patch=config.patching.patch_bytes, sample_bytes=_SAMPLE_BYTES)
        replace_text(path, json.dumps(found) + "\n")
    return json.loads(path.read_text())


if __name__ == "__main__":
    sys.exit(main())
