"""Quickstart: a first scratchpad model on the Python standard library.

Purpose: see the whole chain work on any machine, with nothing downloaded.
Hardware: 2 CPU cores, 1 GB of memory.
Expected time: 3 to 5 minutes on 2 cores, evaluation included.
Expected number: 2.21 BPB on the validation split (2.48 on the first 32 kB of
each source, which the training log shows).
Command:
    scratchpatch train --config=experiments/quickstart.py --workdir=runs/quickstart
"""

from scratchpatch import config as config_lib


def get_config():
    config = config_lib.default()
    # Shares of the bytes that the two have on disk, about.
    config.data.sources = (("stdlib:code", 0.9), ("stdlib:prose", 0.1))
    config.data.window = 512
    config.model.d_byte = 64
    config.model.encoder.window = 16
    config.model.entropy_head.layers = 1
    config.model.trunk.layers = 4
    config.model.trunk.d_model = 128
    config.model.trunk.heads = 4
    config.model.decoder.layers = 1
    config.model.decoder.window = 16
    # So weak a model exceeds any fixed entropy nearly everywhere: the controller holds the rate.
    config.trigger.rate = 3 / 16
    config.trigger.gain = 0.01
    config.training.steps = 700
    config.training.batch_rows = 8
    # On a CPU as fast as all rows at once, in a sixth of the memory.
    config.training.accumulation = 4
    config.training.remat = "full"
    config.training.eval_every = 100
    config.training.checkpoint_every = 100
    config.optimizer.learning_rate = 4e-3
    return config
