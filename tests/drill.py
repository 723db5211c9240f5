"""A run that is hurt at random moments and must end as the same run left in peace: bit for bit, nothing lost.

    python -m tests.drill --faults=20 --steps=200 --seed=0 [--processes=4] [--folder=DIR]
    python -m tests.drill --full_disks [--steps=200] [--kinds=events,metrics]    (as root, or through `unshare -rm`)

With --full_disks the disk of one writer after the other fills, each in a run of one process. It prints a line per fault
and a verdict; exit code 0: passed. All of it happens on this machine, over loopback.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np

from tests import disks, faults, quick, readers, runs
from tests.faults import Failed, Supervised

EVERY = 4
# The layers are few, because tracing and auditing them is most of a start, and wide, so that a checkpoint meets a full
# disk first.
FIELDS = runs.SHALLOW | {
    "model.trunk.d_model": 128,
    "trigger.gain": 0.01,
    "training.batch_rows": 8,
    "training.checkpoint_every": EVERY,
    "training.keep_last": 3,
    "training.durable_keep": 3,
    "mesh.data": -1,
}


def drill(folder: Path, kinds: Sequence[str], steps: int, processes: int, seed: int) -> list[str]:
    """Hurt a run in these ways, in this order; a line about each.

    Raises:
      Failed: something did not end as it must.
    """
    config = runs.config(folder, FIELDS | {"training.steps": steps})
    train = [f"--config={runs.write_config(folder / 'experiment.py', config)}"]
    rng = random.Random(seed)
    calm = Supervised(folder, "calm", processes, train, ["--restarts=0"])
    try:
        calm.wait()
    finally:
        calm.kill()
    run = Supervised(folder, "drill", processes, train, ["--restarts=3", "--silence=10"])
    lines = []
    try:
        for number, kind in enumerate(kinds):
            lines.append(_one(run, kind, number, len(kinds), steps, rng))
            print(lines[-1], flush=True)
        run.wait()
    finally:
        run.kill()
    print(run.said().strip().splitlines()[-1], flush=True)
    _compare(calm.workdir, run.workdir, config, steps)
    return lines


def full_disks(folder: Path, kinds: Sequence[str], steps: int) -> list[str]:
    """Let the disk of each of these writers fill in a run of its own; a line about each."""
    config = runs.config(folder, FIELDS | {"training.steps": steps})
    train = [f"--config={runs.write_config(folder / 'experiment.py', config)}"]
    calm, lines = disks.Run(folder, "calm", train), []
    calm.resumes()
    stored = sum(
        4096 * -(-path.stat().st_size // 4096)
        for path in (calm.workdir / "checkpoints" / str(steps)).rglob("*")
        if path.is_file()
    )
    for number, kind in enumerate(kinds, start=1):
        run = disks.Run(folder / kind, "run", train)
        run.workdir.parent.mkdir()
        came = disks.KINDS[kind](run, stored)
        _compare(calm.workdir, run.workdir, config, steps, kind not in disks.LOSES_METRICS)
        lines.append(f"{number:3}  {kind}: {came}")
        print(lines[-1], flush=True)
    return lines


def _one(run: Supervised, kind: str, number: int, of: int, steps: int, rng: random.Random) -> str:
    """Wait for the moment, strike, and wait for the run to be at work again."""
    # In its own share of the run, of which some steps are left behind the last one, for it to strike in.
    share = (steps - 8 * EVERY) // of
    moment = 2 * EVERY + number * share + rng.randrange(share)
    run.until(f"step {moment}", lambda: run.step() >= moment and run.newest() and run.newest(run.durable))
    # Anywhere between two checkpoints, or in the middle of one.
    time.sleep(rng.uniform(0.0, 0.1))
    step, starts = run.step(), run.starts()
    came = faults.strike(run, kind, rng)
    if kind not in faults.REFUSALS:
        run.until("the restart", lambda: run.starts() > starts)
        resumed = [line for line in run.log(0).splitlines() if line.startswith(("resumed at", "training from"))]
        came += f"; {resumed[-1]}"
    return f"{number + 1:3}  step {step:4}  {kind}: {came}"


def _compare(calm: Path, hurt: Path, config, steps: int, metrics: bool = True) -> None:
    """Every line of metrics, where they are wanted, and every bit of the last state."""
    if metrics and runs.lines(calm) != runs.lines(hurt):
        raise Failed("the metrics are not those of the calm run")
    states = [runs.state(workdir, config, steps) for workdir in (calm, hurt)]
    for (path, a), b in zip(jax.tree.leaves_with_path(states[0]), jax.tree.leaves(states[1]), strict=True):
        if a.dtype != b.dtype or np.asarray(a).tobytes() != np.asarray(b).tobytes():
            raise Failed(f"{jax.tree_util.keystr(path)} is not that of the calm run")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("faults", 20), ("steps", 200), ("seed", 0), ("processes", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument(
        "--full_disks", action="store_true", help=f"the disks of writers fill instead: {', '.join(disks.KINDS)}"
    )
    parser.add_argument(
        "--readers", type=float, default=60, help="seconds of readers beside a writer, after the faults"
    )
    parser.add_argument("--kinds", help=f"these in this order, with commas: {', '.join(faults.KINDS)}")
    parser.add_argument("--folder", type=Path, help="kept; default: a temporary one")
    given = parser.parse_args()
    quick.compile_quickly()
    if given.kinds:
        kinds = given.kinds.split(",")
    elif given.full_disks:
        kinds = list(disks.KINDS)
    else:
        kinds = (list(faults.KINDS) * (given.faults // len(faults.KINDS) + 1))[: given.faults]
        shuffle = random.Random(given.seed).shuffle
        shuffle(kinds)
        # They take longer than the rest of a run that nothing holds up.
        while faults.REFUSALS & set(kinds[-2:]):
            shuffle(kinds)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        try:
            if given.full_disks:
                full_disks(folder, kinds, given.steps)
            else:
                drill(folder, kinds, given.steps, given.processes, given.seed)
                print(readers.beside_a_writer(folder, given.readers), flush=True)
        except Failed as error:
            print(f"FAILED: {error}")
            return 1
    processes = 1 if given.full_disks else given.processes
    print(
        f"passed: {len(kinds)} faults in {given.steps} steps of {processes} processes, "
        f"{time.monotonic() - began:.0f} s; metrics, parameters and moments are those of the calm run, bit for bit"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
