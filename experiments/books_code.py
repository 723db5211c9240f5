"""A 13M-parameter scratchpad model of English books and Python code: the larger run of README's table of evaluations.

Purpose: a model good enough that tasks say something, trained in minutes on one GPU.
The text is that of $SCRATCHPATCH_DATA (README.md beside this file).
Hardware: one GPU; an H100 that had other work, too, did its 1,201 steps, 79 MB, in a minute beside compiling.
Expected number: the table of evaluations in the repository's README.md.
Command, with the learning rate falling over the last fifth of the steps:
    scratchpatch train --config=experiments/books_code.py --workdir=runs/books_code
"""

from experiments import corpora
from scratchpatch import config as config_lib


def get_config():
    config = config_lib.default()
    config.data.sources = ((corpora.source("en_books"), 0.5), (corpora.source("code"), 0.5))
    config.data.validation_sources = (
        (corpora.source("en_books", "validation"), 0.5),
        (corpora.source("code", "validation"), 0.5),
    )
    config.data.window = 1024
    config.model.d_byte = 192
    config.model.encoder.layers = 1
    config.model.encoder.heads = 6
    config.model.encoder.window = 64
    config.model.entropy_head.layers = 1
    config.model.pooling.heads = 6
    config.model.trunk.layers = 6
    config.model.trunk.d_model = 384
    config.model.trunk.heads = 6
    config.model.decoder.layers = 2
    config.model.decoder.heads = 6
    config.model.decoder.window = 64
    config.patching.patch_bytes = 8
    config.trigger.rate = 3 / 16
    config.trigger.gain = 0.01
    config.training.dtype = "bfloat16"
    config.training.steps = 1201
    config.training.batch_rows = 64
    config.training.eval_every = 500
    config.training.checkpoint_every = 500
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 200
    config.optimizer.schedule = "wsd"
    return config
