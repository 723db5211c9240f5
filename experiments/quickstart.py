"""Quickstart: a first scratchpad model on the Python standard library.

Purpose: see the whole chain work on any machine, with nothing downloaded.
Hardware: 2 CPU cores, 1 GB of memory.
Expected time: 5 minutes on 2 cores, evaluation included; 4 of them training steps.
Expected number: 1.55 BPB on the validation split (1.69 on the first 32 kB of
each source, which the training log shows); 1.59 without its scratchpads.
quickstart.md beside this file has the curves, and what was tried.
Command:
    scratchpatch train --config=experiments/quickstart.py --workdir=runs/quickstart
"""

from scratchpatch import config as config_lib


def get_config():
    config = config_lib.default()
    # Shares of the bytes that the two have on disk, about.
    config.data.sources = (("stdlib:code", 0.9), ("stdlib:prose", 0.1))
    config.data.window = 512
    config.model.d_byte = 128
    # What the last bytes say is looked up in tables, which costs next to nothing; an encoder's layer costs a third of
    # a step, and the same compute in more steps gives more.
    config.model.encoder.layers = 0
    config.model.encoder.ngrams = (3, 4, 5, 6)
    config.model.encoder.ngram_rows = 16_384
    config.model.entropy_head.layers = 0
    # The bytes of a patch stay apart.
    config.model.pooling.kind = "concat"
    config.model.pooling.last_state = False
    config.model.trunk.layers = 3
    config.model.trunk.d_model = 128
    config.model.trunk.heads = 4
    config.model.decoder.layers = 1
    # Shorter than a patch: what lies behind it the trunk alone can say.
    config.model.decoder.window = 8
    config.patching.patch_bytes = 16
    # So weak a model exceeds any fixed entropy nearly everywhere: the controller holds the rate.
    config.trigger.rate = 1 / 4
    config.trigger.gain = 0.01
    config.training.steps = 2100
    # Many small steps learn more from as many bytes than few large ones.
    config.training.batch_rows = 4
    config.training.eval_every = 700
    config.training.checkpoint_every = 700
    config.optimizer.learning_rate = 4e-3
    config.optimizer.final_ratio = 0.02
    return config
