"""Train one small BLT and measure it.

.venv/bin/python -m experiments.blt.worker VARIANT SEED FOLDER THRESHOLD STEPS EVAL_BYTES
"""

import json
import sys
from pathlib import Path

import numpy as np
from absl import logging

from experiments.blt.difficulty import get_config
from scratchpatch import compilation_cache, config as config_lib, load
from scratchpatch.data.mixture import streams_for
from scratchpatch.evaluation.bpb import Tally
from scratchpatch.files import replace_text
from scratchpatch.inference.windows import Head
from scratchpatch.training.loop import train

CLASSES = ("letter or digit", "white space", "other ASCII", "first byte of a character", "inside a character")


def byte_class(byte_T: np.ndarray) -> np.ndarray:
    """Index into CLASSES of each byte."""
    b = byte_T.astype(np.int64)
    alnum = (48 <= b) & (b < 58) | (65 <= b) & (b < 91) | (97 <= b) & (b < 123)
    space = np.isin(b, [9, 10, 11, 12, 13, 32])
    return np.select([alnum, space, b < 128, b >= 0xC0], [0, 1, 2, 3], 4)


def measure(lm, stream) -> dict:
    """BPB, patch statistics, and how the entropies go with the losses, on a stream."""
    vocabulary = config_lib.vocabulary(lm.config)
    tally, sizes, entropy, nats = Tally(vocabulary), [], [], []
    starts, all_bytes = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
    open_bytes, bos = 0, vocabulary.bos
    for part in lm.positions(stream):
        tally.add(part)
        is_byte = part.targets < bos
        entropy.append(part.entropy[is_byte])
        nats.append(part.nats[is_byte])
        # A patch ends at a commit, so the next one starts with the target there.
        classes = byte_class(part.targets[is_byte])
        all_bytes += np.bincount(classes, minlength=len(CLASSES))
        starts += np.bincount(classes[part.commit[is_byte]], minlength=len(CLASSES))
        for commit, since in zip(part.commit, part.since, strict=True):
            open_bytes = 1 if since == 1 else open_bytes + 1
            if commit:
                sizes.append(open_bytes)
                open_bytes = 0
    entropy, nats = np.concatenate(entropy), np.concatenate(nats)
    quantiles = {"5%": 0.05, "50%": 0.5, "95%": 0.95, "most": 1.0}
    return {
        "bpb": tally.bpb,
        "bytes_per_patch": tally.sums["positions"] / tally.sums["commits"],
        "sizes": {name: float(np.quantile(sizes, q)) for name, q in quantiles.items()},
        "starts": (starts / starts.sum()).tolist(),
        "bytes": (all_bytes / all_bytes.sum()).tolist(),
        "rank_correlation": float(np.corrcoef(_ranks(entropy), _ranks(nats))[0, 1]),
        "entropy_bits": float(entropy.mean() / np.log(2)),
    }


def _ranks(x: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(x))


def main(variant: str, seed: int, folder: Path, threshold: float, steps: int, eval_bytes: int) -> None:
    logging.set_verbosity(logging.INFO)
    compilation_cache.enable()
    config = get_config(variant)
    config.seed = seed
    config.training.steps = steps
    config.patching.threshold = threshold
    if not train(config, folder):
        raise SystemExit("stopped: the same command goes on from there")
    streams = [Head(stream, eval_bytes + 1) for stream, _ in streams_for(config, "validation")]
    result = measure(load(folder), streams[0])
    result["training_bytes"] = steps * config.training.batch_rows * config.data.window
    replace_text(folder / "result.json", json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    variant, seed, folder, threshold, steps, eval_bytes = sys.argv[1:]
    main(variant, int(seed), Path(folder), float(threshold), int(steps), int(eval_bytes))
