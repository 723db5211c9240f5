"""The config that is measured when none is named."""

from pathlib import Path

import ml_collections

import scratchpatch
from scratchpatch import config as config_lib
from scratchpatch import config_flags

_FILE = Path(scratchpatch.__file__).parents[1] / "experiments" / "quickstart.py"


def config() -> ml_collections.ConfigDict:
    """experiments/quickstart.py of the checkout; a package without one has a model of that size here."""
    return config_flags.load(str(_FILE)) if _FILE.is_file() else _small()


def _small() -> ml_collections.ConfigDict:
    small = config_lib.default()
    small.data.window = 512
    small.model.d_byte = 64
    small.model.encoder.window = small.model.decoder.window = 16
    small.model.entropy_head.layers = small.model.decoder.layers = 1
    small.model.trunk.layers, small.model.trunk.d_model, small.model.trunk.heads = 4, 128, 4
    small.trigger.rate, small.trigger.gain = 3 / 16, 0.01
    return small
