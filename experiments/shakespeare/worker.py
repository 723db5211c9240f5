"""Train one variant of the tinyshakespeare study with one seed, and measure it.

.venv/bin/python -m experiments.shakespeare.worker VARIANT SEED FOLDER TEXT STEPS EVAL_BYTES

Legend: R rows, L positions of a row, M = L + 1 tokens.
"""

import json
import sys
import time
from pathlib import Path

import jax
import numpy as np
from absl import logging

from experiments.shakespeare.config import get_config
from scratchpatch import compilation_cache, load
from scratchpatch.accounting import flops, kv_cache
from scratchpatch.data.mixture import streams_for
from scratchpatch.files import replace_text
from scratchpatch.training.loop import train


def cold_windows(stream, window: int, most_bytes: int) -> np.ndarray:
    """int32 [R, M]: the text of a stream's only document in windows that are read one by one, the last byte of each
    being the first of the next, as nanoGPT has them: no BOS stands before a window, and what does not fill one is left
    out. At most `most_bytes` bytes are predicted.
    """
    # Position 0 is the document's BOS.
    text_T = stream.read(1, len(stream) - 1)
    rows = min(len(text_T) - 1, most_bytes) // window
    return text_T[np.arange(rows)[:, None] * window + np.arange(window + 1)]


def measure(lm, tokens_RM: np.ndarray) -> dict:
    """Mean nats per byte of rows that the model reads one by one, and what its trunk did."""
    size, sums = lm.rows_per_call(lm.config.data.window), dict.fromkeys(("nats", "commit", "scratchpad"), 0.0)
    for first in range(0, len(tokens_RM), size):
        part_RM = tokens_RM[first : first + size]
        missing = size - len(part_RM)
        said = lm.look(np.pad(part_RM, ((0, missing), (0, 0)), constant_values=lm.vocabulary.pad))
        for name in sums:
            sums[name] += said[name][: len(part_RM)].sum(dtype=np.float64)
    nats, commits, scratchpads = (total / tokens_RM[:, 1:].size for total in sums.values())
    return {
        "nats": nats,
        "trunk_calls_per_byte": commits + scratchpads,
        "flops_per_byte": flops.flops_per_byte(lm.config, commits, scratchpads, lm.config.data.window),
        "kv_bytes_per_byte": kv_cache.kv_bytes_per_byte(lm.config, commits),
    }


def main(variant: str, seed: int, folder: Path, text: Path, steps: int, eval_bytes: int) -> None:
    logging.set_verbosity(logging.INFO)
    compilation_cache.enable()
    config = get_config(variant, text)
    config.seed = seed
    config.training.steps = steps
    began = time.monotonic()
    if not train(config, folder):
        raise SystemExit("stopped: the same command goes on from there")
    seconds, lm = time.monotonic() - began, load(folder)
    (stream, _), = streams_for(config, "validation")
    result = measure(lm, cold_windows(stream, config.data.window, eval_bytes))
    result["parameters"] = sum(x.size for x in jax.tree.leaves(lm.weights["params"]))
    result["training_bytes"] = steps * config.training.batch_rows * config.data.window
    result["seconds"] = seconds
    replace_text(folder / "result.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    variant, seed, folder, text, steps, eval_bytes = sys.argv[1:]
    main(variant, int(seed), Path(folder), Path(text), int(steps), int(eval_bytes))
