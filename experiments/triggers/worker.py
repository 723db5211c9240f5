"""Train one variant of the trigger study on some seeds, and measure every trigger on their weights.

    .venv/bin/python -m experiments.triggers.worker VARIANT SEEDS FOLDER TEXTS RESULTS STEPS ROWS EVAL_ROWS LIMIT DTYPE

A line for each seed is added to RESULTS, which several workers share.
"""

import json
import math
import os
import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import logging

from experiments.triggers import texts
from experiments.triggers.config import CORPORA, get_config
from experiments.triggers.measure import KINDS, Measured, Programs
from scratchpatch import config as config_lib
from scratchpatch.data.batches import Batches
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.files import replace_text
from scratchpatch.model import benefit, weights as weights_lib
from scratchpatch.training import optimizer
from scratchpatch.training.step import Trainer

# Training's own correlations are over its last steps.
_LAST = 100


def trained(config, step, limit: float):
    """(weights, steps done, sums of the last steps added up, seconds); no step begins `limit` seconds after the first.

    step: of a trainer of this config, compiled; it serves every seed.
    """
    trainer = Trainer(config, mesh_lib.make(config, jax.devices()[:1]))
    state, began, last = trainer.init(), time.monotonic(), []
    for index, rows_BM in Batches(config).iterate():
        if index == config.training.steps or time.monotonic() > began + limit:
            break
        settings = trainer.place_settings(optimizer.settings(config, index))
        state, sums = step(state, trainer.place(rows_BM), settings)
        last = [*last[-_LAST + 1 :], sums]
        if index % 50 == 0:
            logging.info("step %d, %.3f nats", index, float(sums["nats"] / sums["bytes"]))
    last = jax.device_get(last)
    total = {name: float(np.sum([sums[name] for sums in last], dtype=np.float64)) for name in last[0]}
    return weights_lib.select(state), index, total, time.monotonic() - began


def main(variant, seeds, folder, text, results, steps, batch_rows, eval_rows, limit, dtype) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    logging.set_verbosity(logging.INFO)
    config = get_config(variant, text)
    config.training.steps = steps
    config.training.batch_rows = batch_rows
    config.training.dtype = dtype
    config_lib.check(config)
    rows = [texts.rows(text / f"{corpus}.validation.jsonl", eval_rows, config.data.window) for corpus in CORPORA]
    tokens_RM, computed_RL = (np.concatenate([each[i] for each in rows]) for i in range(2))
    corpora_R = np.repeat(CORPORA, eval_rows)
    step, programs = Trainer(config, mesh_lib.make(config, jax.devices()[:1])).compile(), Programs(config)
    logging.info("compiled")
    lines = []
    for seed in seeds:
        began = time.monotonic()
        config.seed = seed
        weights, done, total, seconds = trained(config, step, limit or math.inf)
        measured = Measured(config, weights, tokens_RM, programs)
        result = {
            "variant": variant, "seed": seed, "steps": done, "of_steps": steps,
            "dtype": dtype, "device": jax.devices()[0].device_kind,
            "training_bytes": done * batch_rows * config.data.window,
            "parameters": sum(x.size for x in jax.tree.leaves(weights["params"])),
            "own": measured.numbers(measured.signals["own"], corpora_R, computed_RL),
            "fixed": {k: measured.numbers(measured.scratchpads(k), corpora_R, computed_RL) for k in KINDS},
            "correlations": measured.correlations(),
            "training": {
                "scratchpads_per_byte": total["scratchpads"] / total["positions"],
                "benefit_nats": total["benefit"] / max(total["benefit_count"], 1.0),
                "correlations": {name: benefit.correlation(total, name) for name in benefit.PREDICTORS},
            },
            "training_seconds": seconds, "seconds": time.monotonic() - began,
        }
        lines.append(json.dumps(result) + "\n")
        # One write: others add their lines meanwhile.
        descriptor = os.open(results, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(descriptor, lines[-1].encode())
        os.close(descriptor)
    replace_text(folder / "result.json", "".join(lines))


if __name__ == "__main__":
    name, seeds, folder, text, results, *sizes, dtype = sys.argv[1:]
    paths = map(Path, (folder, text, results))
    main(name, [int(seed) for seed in seeds.split(",")], *paths, *map(int, sizes), dtype)
