"""Entropy model of a small BLT: a plain byte transformer, trained alone.

Purpose: the entropies that a BLT's patches follow, on any machine, with
nothing downloaded.
Hardware: 2 CPU cores, 1 GB of memory.
Expected time: 5.5 minutes on 2 cores that other work shared.
Expected number: 1.90 BPB on the validation split (2.13 on the first 32 kB of
each source, which the training log shows); 0.47M parameters.
Command:
    scratchpatch train --config=experiments/blt/entropy_small.py --workdir=runs/blt_entropy
"""

from scratchpatch import config as config_lib


def get_config():
    config = config_lib.default()
    # The corpus of experiments/quickstart.py.
    config.data.sources = (("stdlib:code", 0.9), ("stdlib:prose", 0.1))
    config.data.window = 512
    config.model.d_byte = 128
    config.model.norm_eps = 1e-5
    config.model.encoder.layers = 2
    config.model.encoder.heads = 4
    config.model.encoder.window = 128
    config.model.entropy_head.weight = 0.0
    config.model.trunk.kind = "none"
    config.model.decoder.layers = 0
    config.trigger.kind = "none"
    config.training.steps = 1000
    config.training.batch_rows = 8
    config.training.accumulation = 4
    config.training.remat = "full"
    config.training.eval_every = 100
    config.training.checkpoint_every = 100
    config.optimizer.learning_rate = 4e-3
    return config
