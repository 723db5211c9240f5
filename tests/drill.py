"""A run that is hurt at random moments and must end as the same run left in peace: bit for bit, nothing lost.

    python -m tests.drill --faults=20 --steps=200 --seed=0 [--processes=4] [--folder=DIR]

Prints a line per fault and a verdict; exit code 0: passed. All of it happens on this machine, over loopback.
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

from tests import faults, readers, runs
from tests.faults import Failed, Supervised

EVERY = 4
# Few layers, because tracing and auditing them is most of a start; wide ones, so that a full disk is met by a checkpoint.
FIELDS = {
    "model.encoder.layers": 0,
    "model.entropy_head.layers": 0,
    "model.decoder.layers": 0,
    "model.pooling.kind": "mean",
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


def _compare(calm: Path, hurt: Path, config, steps: int) -> None:
    """Every line of metrics and every bit of the last state."""
    if runs.lines(calm) != runs.lines(hurt):
        raise Failed("the metrics are not those of the calm run")
    states = [runs.state(workdir, config, steps) for workdir in (calm, hurt)]
    for (path, a), b in zip(jax.tree.leaves_with_path(states[0]), jax.tree.leaves(states[1]), strict=True):
        if a.dtype != b.dtype or np.asarray(a).tobytes() != np.asarray(b).tobytes():
            raise Failed(f"{jax.tree_util.keystr(path)} is not that of the calm run")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("faults", 20), ("steps", 200), ("seed", 0), ("processes", 4)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--readers", type=float, default=60, help="seconds of readers beside a writer, after the faults")
    parser.add_argument("--kinds", help=f"these in this order, with commas: {', '.join(faults.KINDS)}")
    parser.add_argument("--folder", type=Path, help="kept; default: a temporary one")
    given = parser.parse_args()
    if given.kinds:
        kinds = given.kinds.split(",")
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
            drill(folder, kinds, given.steps, given.processes, given.seed)
            print(readers.beside_a_writer(folder, given.readers), flush=True)
        except Failed as error:
            print(f"FAILED: {error}")
            return 1
    print(f"passed: {len(kinds)} faults in {given.steps} steps of {given.processes} processes, {time.monotonic() - began:.0f} s; metrics, parameters and moments are those of the calm run, bit for bit")
    return 0


if __name__ == "__main__":
    sys.exit(main())
