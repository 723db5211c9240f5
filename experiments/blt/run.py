"""The first experiments that a reader of the BLT paper makes, small: trains, measures, writes README.md beside it.

    .venv/bin/python -m experiments.blt.run [--seeds=0,1] [--steps=1000] [--workers=2]

Finished runs in --workdir are kept: the same command goes on after a stop.
"""

import json
import shutil
import sys
from pathlib import Path

from experiments import jobs
from experiments.blt import compute, entropy_corpora, small, summary
from experiments.blt.difficulty import VARIANTS, get_config
from scratchpatch import compilation_cache
from scratchpatch.evaluation.calibrate import calibrate
from scratchpatch.files import replace_text
from scratchpatch.inference import loading
from scratchpatch.interop.export import export
from scratchpatch.training.loop import train

_SAMPLE_BYTES = 200_000


def main() -> int:
    flags = jobs.flags("blt", __doc__, Path(__file__).parent)
    compilation_cache.enable()
    if not train(entropy_corpora.get_config(), small.ENTROPY_RUN):
        return 1
    thresholds = {corpus: threshold(corpus, flags.workdir) for corpus in entropy_corpora.CORPORA}
    runs = {}
    for seed in flags.seeds:
        for variant in VARIANTS:
            folder = flags.workdir / f"{variant}-{seed}"
            level = thresholds[variant.partition("-")[2]]["threshold"]
            arguments = [variant, str(seed), str(folder), str(level), str(flags.steps), str(flags.eval_bytes)]
            runs[variant, seed] = jobs.Job(f"{variant}, seed {seed}", folder, "experiments.blt.worker", arguments)
    jobs.run(list(runs.values()), flags.workers, "blt")
    costs = flags.workdir / "compute.txt"
    if not costs.exists():
        replace_text(costs, compute.table(compute.rows(), compute.bytes_per_second(60.0)) + "\n")
    results = {run: json.loads(job.result.read_text()) for run, job in runs.items()}
    (flags.output / "README.md").write_text(summary.page(results, thresholds, costs.read_text()))
    print(flags.output / "README.md")
    return 0


def threshold(corpus: str, workdir: Path) -> dict:
    """What `scratchpatch calibrate` says for patches of 4 bytes in a corpus, with a model that is not trained yet."""
    folder = workdir / f"untrained-{corpus}"
    path = folder / "threshold.json"
    if not path.exists():
        shutil.rmtree(folder, ignore_errors=True)
        config = get_config(f"entropy-{corpus}")
        lm = loading.init(config)
        lm.weights["frozen"] = {"entropy_model": loading.load(small.ENTROPY_RUN).weights["params"]}
        export(lm, folder)
        calibrated = calibrate(folder, bytes_per_patch=config.patching.patch_bytes, sample_bytes=_SAMPLE_BYTES)
        replace_text(path, json.dumps(calibrated) + "\n")
    return json.loads(path.read_text())


if __name__ == "__main__":
    sys.exit(main())
