"""Where must scratchpads fire for a small model to compute? The models of the GSM8K study.

Purpose: arXiv 2610.11790 reports that a scratchpad right before an answer lets a model of 0.2M parameters compute final
answers of GSM8K that scratchpads at high entropies miss. These are models of that size on the same problems.
The text is that of $SCRATCHPATCH_DATA (README.md beside this file).
Hardware: a GPU; on 2 CPU cores 32,000 steps of all variants take days.
Expected number: arXiv 2610.11790 has 38% of the final answers with a scratchpad at their start, and 6% without.
Command, for everything:
    .venv/bin/python -m experiments.gsm8k.run
"""

from scratchpatch import config as config_lib

WINDOW = 128
# Scratchpads per byte of every variant that has some, those where a patch ends anyway left out.
RATE = 0.06
# Program to (bytes per patch, budget of scratchpads per byte, its variants): variants of one program differ in where
# scratchpads fire alone, so that they train side by side.
PROGRAMS = {
    "p=16": (16, 0.25, ("none", "random", "entropy", "entropy_jump", "answer_start")),
    "p=8": (8, 0.0, ("none",)),
    "p=16, every byte": (16, 1.0, ("every",)),
}


def get_config(program="p=16"):
    """The config of a program's models. Decisions hold scores that are given against a threshold of 0.5."""
    patch_bytes, capacity, _ = PROGRAMS[program]
    config = config_lib.default()
    config.data.window = WINDOW
    config.model.d_byte = 64
    config.model.encoder.layers = 1
    config.model.encoder.window = 32
    config.model.encoder.heads = 4
    config.model.entropy_head.weight = 1.0
    config.model.entropy_head.layers = 0
    config.model.trunk.layers = 2
    config.model.trunk.d_model = 64
    config.model.trunk.heads = 4
    config.model.decoder.layers = 1
    config.model.decoder.window = 32
    config.model.decoder.heads = 4
    config.patching.patch_bytes = patch_bytes
    config.trigger.kind = "entropy" if capacity else "none"
    config.trigger.threshold = 0.5
    config.trigger.capacity = capacity
    config.training.batch_rows = 32
    config.training.steps = 32_000
    config.optimizer.learning_rate = 3e-3
    config.optimizer.warmup_steps = 100
    config.optimizer.weight_decay = 0.01
    config.kernels.staircase = "xla"
    config.kernels.window = "xla"
    return config


def get_entropy_config():
    """The small byte-level model whose entropies some variants read, trained before them."""
    config = get_config()
    config.model.d_byte = 32
    config.model.encoder.window = WINDOW
    config.model.entropy_head.weight = 0.0
    config.model.trunk.kind = "none"
    config.model.decoder.layers = 0
    config.trigger.kind = "none"
    config.training.steps = 4_000
    return config
