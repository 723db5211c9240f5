"""Train one variant of the trigger study with one seed, and measure every trigger on its weights.

    .venv/bin/python -m experiments.triggers.worker VARIANT SEED FOLDER TEXTS RESULTS STEPS ROWS EVAL_ROWS LIMIT DTYPE

One line is added to RESULTS, which several workers share.
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
from experiments.triggers.measure import KINDS, Measured
from scratchpatch import config as config_lib
from scratchpatch.data.batches import Batches
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.files import replace_text
from scratchpatch.model import benefit, weights as weights_lib
from scratchpatch.training import optimizer
from scratchpatch.training.step import Trainer

# Training's own correlations are over its last steps.
_LAST = 100


def trained(config, until: float):
    """(weights, steps done, sums of the last steps added up, seconds of the steps); no step begins after `until`."""
    trainer = Trainer(config, mesh_lib.make(config, jax.devices()[:1]))
    state, step = trainer.init(), trainer.compile()
    logging.info("compiled")
    began, last = time.monotonic(), []
    for index, rows_BM in Batches(config).iterate():
        if index == config.training.steps or time.monotonic() > until:
            break
        settings = trainer.place_settings(optimizer.settings(config, index))
        state, sums = step(state, trainer.place(rows_BM), settings)
        last = [*last[-_LAST + 1 :], sums]
        if index % 50 == 0:
            logging.info("step %d, %.3f nats", index, float(sums["nats"] / sums["bytes"]))
    last = jax.device_get(last)
    total = {name: float(np.sum([sums[name] for sums in last], dtype=np.float64)) for name in last[0]}
    return weights_lib.select(state), index, total, time.monotonic() - began


def main(variant, seed, folder, text, results, steps, batch_rows, eval_rows, limit, dtype) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    logging.set_verbosity(logging.INFO)
    began = time.monotonic()
    config = get_config(variant, text)
    config.seed, config.training.steps, config.training.batch_rows = seed, steps, batch_rows
    config.training.dtype = dtype
    config_lib.check(config)
    weights, done, total, seconds = trained(config, began + limit if limit else math.inf)
    rows = [texts.rows(text / f"{corpus}.validation.jsonl", eval_rows, config.data.window) for corpus in CORPORA]
    tokens_RM, computed_RL = (np.concatenate([each[i] for each in rows]) for i in range(2))
    corpora_R = np.repeat(CORPORA, eval_rows)
    measured = Measured(config, weights, tokens_RM)
    positions = total["positions"]
    result = {
        "variant": variant, "seed": seed, "steps": done, "of_steps": steps,
        "dtype": dtype, "device": jax.devices()[0].device_kind,
        "training_bytes": done * batch_rows * config.data.window,
        "parameters": sum(x.size for x in jax.tree.leaves(weights["params"])),
        "own": measured.numbers(measured.signals["own"], corpora_R, computed_RL),
        "fixed": {k: measured.numbers(measured.scratchpads(k), corpora_R, computed_RL) for k in KINDS},
        "correlations": measured.correlations(),
        "training": {
            "scratchpads_per_byte": total["scratchpads"] / positions,
            "benefit_nats": total["benefit"] / max(total["benefit_count"], 1.0),
            "correlations": {name: benefit.correlation(total, name) for name in benefit.PREDICTORS},
        },
        "step_seconds": seconds, "seconds": time.monotonic() - began,
    }
    line = json.dumps(result)
    descriptor = os.open(results, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(descriptor, (line + "\n").encode())
    os.close(descriptor)
    replace_text(folder / "result.json", line + "\n")


if __name__ == "__main__":
    name, seed, folder, text, results, *sizes, dtype = sys.argv[1:]
    main(name, int(seed), Path(folder), Path(text), Path(results), *map(int, sizes), dtype)
