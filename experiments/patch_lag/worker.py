"""Train one variant of the patch-lag study with one seed, and measure it.

.venv/bin/python -m experiments.patch_lag.worker VARIANT SEED FOLDER STEPS EVAL_BYTES
"""

import json
import sys
import time
from pathlib import Path

import jax
from absl import logging

from experiments.patch_lag.config import get_config
from scratchpatch import compilation_cache, config as config_lib, load
from scratchpatch.accounting import flops, kv_cache
from scratchpatch.data.mixture import streams_for
from scratchpatch.evaluation.bpb import Tally
from scratchpatch.files import replace_text
from scratchpatch.inference.windows import Head
from scratchpatch.training.loop import train

# Offsets of every model are counted by this patch size, that of the p=16 models.
PERIOD = 16


def measure(lm, streams) -> dict:
    """BPB, rates, and BPB by offset in a patch of PERIOD bytes, over all streams and each."""
    vocabulary = config_lib.vocabulary(lm.config)
    total, bpb_by_stream = Tally(vocabulary), []
    for stream in streams:
        alone = Tally(vocabulary)
        for part in lm.positions(stream):
            alone.add(part)
            total.add(part, part.since % PERIOD)
        bpb_by_stream.append(alone.bpb)
    commits = total.sums["commits"] / total.sums["positions"]
    scratchpads = total.sums["scratchpads"] / total.sums["positions"]
    return {
        "bpb": total.bpb,
        "books": bpb_by_stream[0],
        "code": bpb_by_stream[1],
        "trunk_calls_per_byte": commits + scratchpads,
        "scratchpads_per_byte": scratchpads,
        "flops_per_byte": flops.flops_per_byte(lm.config, commits, scratchpads, lm.config.data.window),
        "kv_bytes_per_byte": kv_cache.kv_bytes_per_byte(lm.config, commits),
        "bpb_by_offset": total.bpb_by_offset(),
    }


def main(variant: str, seed: int, folder: Path, steps: int, eval_bytes: int) -> None:
    logging.set_verbosity(logging.INFO)
    compilation_cache.enable()
    config = get_config(variant)
    config.seed = seed
    config.training.steps = steps
    began = time.monotonic()
    if not train(config, folder):
        raise SystemExit("stopped: the same command goes on from there")
    lm = load(folder)
    streams = [Head(stream, eval_bytes // 2 + 1) for stream, _ in streams_for(config, "validation")]
    result = measure(lm, streams)
    result["parameters"] = sum(x.size for x in jax.tree.leaves(lm.weights["params"]))
    if config.trigger.kind != "none":
        result["without_scratchpads"] = measure(lm.override({"trigger.kind": "none"}), streams)
    result["seconds"] = time.monotonic() - began
    result["training_bytes"] = steps * config.training.batch_rows * config.data.window
    replace_text(folder / "result.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
