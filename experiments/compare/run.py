"""Run the comparison, and write README.md beside this file after every run that is done.

    .venv/bin/python -m experiments.compare.run --plan=1
    .venv/bin/python -m experiments.compare.run [--seeds=0,1] [--megabytes=20] [--texts=latin] [--systems=flat,p8]

--plan=1 tells the runs, the hours that they are expected to take and how far each is, and trains nothing. Runs that are
done stay in --workdir, and one that was stopped goes on from its newest checkpoint: the same command goes on. --train=0
writes the page of what there is.
"""

import itertools
import json
import sys
from pathlib import Path

from experiments import corpora, jobs
from experiments.compare import cost, summary, worker
from experiments.compare.config import PREDICTOR, PREDICTOR_SHARE, SYSTEMS, TEXTS, TOKENS, get_config, systems
from scratchpatch import compilation_cache
from scratchpatch.errors import UserError
from scratchpatch.files import replace_text
from scratchpatch.preparation import vocabulary

# Training bytes that tokens are learnt from.
_SAMPLE_BYTES = 8_000_000
_FLAGS = {
    "megabytes": (20.0, "bytes that every run is measured after at least, in millions"),
    "texts": (",".join(TEXTS), "which texts"),
    "systems": (",".join(SYSTEMS), "which systems"),
    "items": (48, "documents of the tasks"),
    "cost_seconds": (60.0, "time to measure costs by patch size for"),
    "gflops": (28.0, "useful GFLOP/s of a core, of runs that have not begun"),
    "plan": (0, "1: tell what would be run, and run nothing"),
    "train": (1, "0: train nothing"),
}


def runs(flags) -> dict[tuple[str, int], jobs.Job]:
    """The jobs by variant and seed, in the order in which they are run: text by text, and the seeds of a system side
    by side.
    """
    made, chosen, texts = {}, flags.systems.split(","), flags.texts.split(",")

    def add(system: str, text: str, seed: int) -> None:
        variant = f"{system}-{text}"
        folder = flags.workdir.resolve() / f"{variant}-{seed}"
        sizes = [str(flags.megabytes), str(flags.eval_bytes), str(flags.items)]
        arguments = [variant, str(seed), str(folder), *sizes]
        made[variant, seed] = jobs.Job(f"{variant}, seed {seed}", folder, "experiments.compare.worker", arguments)

    for text in texts:
        if "blt" in chosen and text in SYSTEMS["blt"].texts:
            add(PREDICTOR, text, 0)
    for text in texts:
        for system, seed in itertools.product(systems(text), flags.seeds):
            if system in chosen:
                add(system, text, seed)
    return made


def progress(job: jobs.Job) -> tuple[float, float | None]:
    """The share of a run's steps that are done, and its useful FLOP/s so far (None: not known)."""
    if job.result.exists():
        return 1.0, json.loads(job.result.read_text())["flops_per_second"]
    planned = job.folder / "plan.json"
    if not planned.exists():
        return 0.0, None
    so_far = worker.spent(job.folder)
    return so_far["steps"] / max(json.loads(planned.read_text())["points"].values()), so_far["flops_per_second"]


def expected_seconds(variant: str, megabytes: float, flops_per_second: float) -> float:
    """Of a whole run on one core, which reads so many bytes at least and spends so many FLOPs at least. Measurements,
    about a tenth, are not counted.
    """
    system, _, text = variant.partition("-")
    flops = worker.per_byte(get_config(variant)) * megabytes * 1e6
    if system == PREDICTOR:
        return flops * PREDICTOR_SHARE / flops_per_second
    return max(flops, worker.budget(text, megabytes)) / flops_per_second


def plan(of: dict[tuple[str, int], jobs.Job], megabytes: float, workers: int, gflops: float) -> str:
    """A line for each run, and the hours that are left."""
    lines, left = [], 0.0
    for (variant, seed), job in of.items():
        share, speed = progress(job)
        seconds = expected_seconds(variant, megabytes, speed or gflops * 1e9)
        left += (1 - share) * seconds
        known = f"{speed / 1e9:.1f} GFLOP/s" if speed else "not begun"
        lines.append(f"{variant + ',':<28} seed {seed}: {share:4.0%} of {seconds / 3600:5.2f} h ({known})")
    done = sum(job.result.exists() for job in of.values())
    total = f"{left / 3600:.1f} hours of one core are left, {left / 3600 / workers:.1f} with {workers} workers"
    return "\n".join([*lines, f"{done} of {len(of)} runs are done; {total}"])


def main() -> int:
    flags = jobs.flags("compare", __doc__, Path(__file__).parent, None, _FLAGS, reads_corpora=False)
    try:
        for name, known in (("texts", TEXTS), ("systems", SYSTEMS)):
            if unknown := set(getattr(flags, name).split(",")) - set(known):
                raise UserError(f"--{name}: no {min(unknown)!r}; wanted some of {','.join(known)}")
        corpora.require(*(corpus for text in flags.texts.split(",") for corpus in TEXTS[text]))
        of = runs(flags)
    except UserError as error:
        sys.exit(f"compare: {error}")
    told = plan(of, flags.megabytes, flags.workers, flags.gflops)
    print(told)
    if flags.plan:
        return 0
    compilation_cache.enable()
    costs = flags.workdir / "cost.json"
    if not costs.exists():
        flags.workdir.mkdir(parents=True, exist_ok=True)
        replace_text(costs, json.dumps(cost.rows(flags.cost_seconds)) + "\n")

    def write() -> None:
        summary.write(flags.output, {run: job.folder for run, job in of.items()}, json.loads(costs.read_text()))

    if flags.train:
        for variant in dict.fromkeys(variant for variant, _ in of if variant.startswith(f"{TOKENS}-")):
            config = get_config(variant)
            config.data.tokenizer = str(flags.workdir.resolve() / f"{variant.partition('-')[2]}.tokenizer.json")
            vocabulary.learn(config, _SAMPLE_BYTES)
        predictors = [job for (variant, _), job in of.items() if variant.startswith(PREDICTOR)]
        jobs.run(predictors, flags.workers, "compare, entropy models")
        others = [job for job in of.values() if job not in predictors]
        jobs.run(others, flags.workers, "compare", done=write)
    write()
    print(flags.output / "README.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
