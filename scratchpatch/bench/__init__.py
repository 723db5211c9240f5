"""Speed and memory on this machine, each number beside its target.

What is compared runs in one process, in turns, and the ratio is the median over the turns: others' work slows both.
"""

from pathlib import Path

import ml_collections
from absl import logging

import scratchpatch
from scratchpatch import config as config_lib, config_flags
from scratchpatch.bench import data, decode, kernels, linear, peer, start, train
from scratchpatch.bench.results import machine, text

__all__ = ["MEASURES", "quickstart", "run", "text"]
MEASURES = {
    "train": train.measure, "data": data.measure, "linear": linear.measure, "kernels": kernels.measure,
    "start": start.measure, "peer": peer.measure, "decode": decode.measure,
}
_QUICKSTART = Path(scratchpatch.__file__).parents[1] / "experiments" / "quickstart.py"


def run(what: str, config=None) -> dict:
    """{"machine": ..., name: {"title", "numbers", "targets", "notes"}, ...} of one of MEASURES, or of `all` of them.
    numbers: side -> measure -> value. config: the experiment to measure; None: the quickstart. Raises UserError for a
    config that does not hold together, or a bad source.
    """
    config = quickstart() if config is None else config
    config_lib.check(config)
    measured = {"machine": machine()}
    for name in MEASURES if what == "all" else (what,):
        logging.info("bench %s ...", name)
        measured[name] = MEASURES[name](config).as_dict()
    return measured


def quickstart() -> ml_collections.ConfigDict:
    """experiments/quickstart.py of the checkout; a package without one has a model of that size here."""
    if _QUICKSTART.is_file():
        return config_flags.load(str(_QUICKSTART))
    fields = {
        "data.window": 512, "model.d_byte": 128, "model.encoder.layers": 0, "model.encoder.ngrams": (3, 4, 5, 6),
        "model.encoder.ngram_rows": 16_384, "model.entropy_head.layers": 0, "model.pooling.kind": "concat",
        "model.pooling.last_state": False, "model.trunk.layers": 3, "model.trunk.d_model": 128,
        "model.trunk.heads": 4, "model.decoder.layers": 1, "model.decoder.window": 8, "patching.patch_bytes": 16,
        "trigger.rate": 1 / 4, "trigger.gain": 0.01, "training.batch_rows": 4,
    }
    return config_lib.from_flat(fields)
