"""The same triggers where scratchpads matter: values that must be looked up (../recall/README.md).

    .venv/bin/python -m experiments.triggers.recall SEEDS FOLDER RESULTS

A model of 4-byte patches learns documents of pairs and questions with a scratchpad at every byte, which it needs: one
that is trained without them is right in half of the values. Then every trigger is tried on its weights. What must be
refreshed is the context at a key that was just asked: a third of the bytes, of which a quarter commits anyway. Before a
key nothing can be known. A line for each seed is added to RESULTS, and all of them are left in FOLDER/result.json.
"""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import logging

from experiments.recall.config import get_config
from experiments.recall.training import HELD_OUT, HELD_OUT_ROWS, Lane
from experiments.triggers.measure import Measured, Programs
from scratchpatch import config as config_lib
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.files import replace_text
from scratchpatch.model import weights as weights_lib
from scratchpatch.training import optimizer
from scratchpatch.training.step import Trainer

KINDS = ("none", "random", "entropy", "entropy_jump", "score", "learned", "oracle_next", "every")
RATES = (1 / 16, 1 / 8, 1 / 4)
STEPS = 450


def config_of(steps: int):
    """That of the recall study, with what learns a scratchpad's benefit."""
    config = get_config("p4_every_cross+last")
    config.model.entropy_head.weight = 1.0
    config.model.benefit.width = 32
    config.model.benefit.table = True
    config.training.steps = steps
    config.kernels.staircase = "xla"
    config.kernels.window = "xla"
    config_lib.check(config)
    return config


def main(seeds: list[int], folder: Path, results: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    logging.set_verbosity(logging.INFO)
    config, steps, lines = config_of(STEPS), STEPS, []
    mesh = mesh_lib.make(config, jax.devices()[:1])
    step, programs, window = Trainer(config, mesh).compile(), Programs(config), config.data.window
    for seed in seeds:
        began, lane, config.seed = time.monotonic(), Lane(seed), seed
        trainer = Trainer(config, mesh)
        state = trainer.init()
        for index in range(steps):
            rows_BM = lane.rows(window, config.training.batch_rows, index)
            settings = trainer.place_settings(optimizer.settings(config, index))
            state, sums = step(state, trainer.place(rows_BM), settings)
            if index % 50 == 0:
                logging.info("step %d, %.3f nats", index, float(sums["nats"] / sums["bytes"]))
        weights = weights_lib.select(state)
        tokens_RM = lane.rows(window, HELD_OUT_ROWS, HELD_OUT)
        value_RL = np.broadcast_to(lane.answers(window), (HELD_OUT_ROWS, window))
        measured = Measured(config, weights, tokens_RM, programs)
        found, corpora_R = {}, np.repeat("values", HELD_OUT_ROWS)
        for rate in RATES:
            for kind in KINDS:
                scratchpad_RL = measured.scratchpads(kind, rate)
                found.setdefault(kind, []).append(measured.numbers(scratchpad_RL, corpora_R, value_RL))
        result = {
            "recall": True, "seed": seed, "steps": steps, "rates": RATES, "fixed": found,
            "correlations": measured.correlations(), "seconds": time.monotonic() - began,
        }
        lines.append(json.dumps(result) + "\n")
        with results.open("a") as file:
            file.write(lines[-1])
    replace_text(folder / "result.json", "".join(lines))


if __name__ == "__main__":
    main([int(seed) for seed in sys.argv[1].split(",")], Path(sys.argv[2]), Path(sys.argv[3]))
