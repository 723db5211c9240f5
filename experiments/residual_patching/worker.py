"""Train one variant of the residual patching study with one seed, and measure it.

.venv/bin/python -m experiments.residual_patching.worker VARIANT SEED FOLDER STEPS EVAL_BYTES
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
from absl import logging

from experiments.residual_patching.config import LONG, STEPS_OF_LONG, get_config
from scratchpatch import compilation_cache, config as config_lib, load
from scratchpatch.accounting import flops
from scratchpatch.data.mixture import streams_for
from scratchpatch.evaluation import audit
from scratchpatch.evaluation.bpb import Tally
from scratchpatch.files import replace_text
from scratchpatch.inference.windows import Head
from scratchpatch.training.loop import train

# Places of bytes in patches of this size; of longer patches the fourth byte and all behind it.
PERIOD = 4


def places(lm, part) -> np.ndarray:
    """Which byte of its patch each position predicts, from 0; of models whose patches have no size of their own, by
    patches of PERIOD bytes.
    """
    if lm.config.patching.kind == "entropy":
        return np.minimum(part.offset, PERIOD - 1)
    return part.since % PERIOD


def measure(lm, stream) -> dict:
    """BPB, in all and by the place of the predicted byte in its patch, and what a byte costs."""
    tally = Tally(config_lib.vocabulary(lm.config))
    for part in lm.positions(stream):
        tally.add(part, places(lm, part))
    commits = tally.sums["commits"] / tally.sums["positions"]
    return {
        "bpb": tally.bpb,
        "bpb_by_place": tally.bpb_by_offset(),
        "commits_per_byte": commits,
        "flops_per_byte": flops.flops_per_byte(lm.config, commits, 0.0, lm.config.data.window),
    }


def main(variant: str, seed: int, folder: Path, steps: int, eval_bytes: int) -> None:
    logging.set_verbosity(logging.INFO)
    compilation_cache.enable()
    config = get_config(variant)
    config.seed = seed
    config.training.steps = round(steps * STEPS_OF_LONG) if variant in LONG else steps
    if not train(config, folder):
        raise SystemExit("stopped: the same command goes on from there")
    lm = load(folder)
    ((stream, _),) = streams_for(config, "validation")
    result = measure(lm, Head(stream, eval_bytes + 1))
    if config.model.leak:
        result["without_leak"] = measure(lm.override({"model.leak": ""}), Head(stream, eval_bytes + 1))["bpb"]
        result["stage"] = audit.audit(config, lm.weights).findings[0].stage
    result["parameters"] = sum(x.size for x in jax.tree.leaves(lm.weights["params"]))
    result["training_bytes"] = config.training.steps * config.training.batch_rows * config.data.window
    replace_text(folder / "result.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
