"""Train one variant of the recall study in several lanes, and measure it.

.venv/bin/python -m experiments.recall.worker VARIANT STEPS FOLDER LANE...

A lane is SEED,PAIRS,DISTANCE,LEARNING_RATE.
"""

import contextlib
import datetime
import fcntl
import json
import sys
from pathlib import Path

import jax

from experiments.recall.config import get_config
from experiments.recall.training import Lane, Trial
from scratchpatch import compilation_cache, config as config_lib
from scratchpatch.accounting import flops, kv_cache
from scratchpatch.files import replace_text


def main(variant: str, steps: int, folder: Path, lanes: list[Lane]) -> None:
    compilation_cache.enable()
    config = get_config(variant)
    config.training.steps = steps
    config_lib.check(config)
    trial = Trial(config, lanes)
    with _turn(folder.parent / "turn"):
        results = trial.run(lambda step, accuracy_S: print(step, *accuracy_S.round(3), flush=True))
    for result in results:
        commits, scratchpads = result["commits_per_byte"], result["scratchpads_per_byte"]
        result["flops_per_byte"] = flops.flops_per_byte(config, commits, scratchpads, config.data.window)
        result["kv_bytes_per_byte"] = kv_cache.kv_bytes_per_byte(config, commits)
        result["device"] = jax.devices()[0].device_kind
        result["date"] = datetime.date.today().isoformat()
    replace_text(folder / "result.json", json.dumps({"variant": variant, "lanes": results}) + "\n")


@contextlib.contextmanager
def _turn(path: Path):
    """On an accelerator one process at a time trains; the others compile meanwhile."""
    if jax.default_backend() == "cpu":
        yield
        return
    with path.open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def lane_of(text: str) -> Lane:
    seed, pairs, distance, learning_rate = text.split(",")
    return Lane(int(seed), pairs=int(pairs), distance=int(distance), learning_rate=float(learning_rate))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), [lane_of(text) for text in sys.argv[4:]])
