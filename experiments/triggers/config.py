"""Which trigger: where shall the scratchpads stand, at an equal rate?

Purpose: models of 16-byte patches that differ in their trigger alone. All of them carry the head and the table that
learn what a scratchpad saves, so that every trigger can also be tried on the weights of every model.
The text is a slice of that of $SCRATCHPATCH_DATA (../README.md), with sums in words (gsm8k) beside books and code.
Hardware: 2 CPU cores.
Expected time: about an hour for all variants on two seeds (an estimate: it has run in part alone).
Expected number: README.md beside this file has all numbers of the last run.
Command, for everything:
    .venv/bin/python -m experiments.triggers.run
"""

from pathlib import Path

from scratchpatch import config as config_lib

RATE = 3 / 16
WINDOW = 256
# The first ones answer most.
VARIANTS = ("random", "learned", "entropy", "none", "score", "every", "stride", "entropy_jump", "whitespace")
CORPORA = ("books", "code", "sums")


def get_config(variant: str = "learned", texts: Path = Path("runs/triggers/texts")):
    """The config of a variant; `texts` is the folder that the study's `texts.write` has filled."""
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; wanted one of {', '.join(VARIANTS)}")
    config = config_lib.default()
    config.data.sources = tuple((f"jsonl:{texts}/{corpus}.train.jsonl", 1.0) for corpus in CORPORA)
    config.data.validation_sources = tuple((f"jsonl:{texts}/{corpus}.validation.jsonl", 1.0) for corpus in CORPORA)
    config.data.window = WINDOW
    config.data.cache_dir = str(texts / "cache")
    config.model.d_byte = 64
    config.model.encoder.window = 16
    config.model.entropy_head.layers = 1
    config.model.benefit.width = 32
    config.model.benefit.table = True
    config.model.trunk.layers = 2
    config.model.trunk.d_model = 128
    config.model.trunk.heads = 4
    config.model.decoder.layers = 1
    config.model.decoder.window = 16
    config.patching.patch_bytes = 16
    config.trigger.kind = variant
    # A random trigger draws at the 15 of 16 bytes where no commit stands.
    config.trigger.rate = RATE * 16 / 15 if variant == "random" else RATE
    config.trigger.gain = 0.01
    config.trigger.stride = 4
    if variant == "whitespace":
        config.trigger.capacity = RATE
    config.training.steps = 1000
    config.training.batch_rows = 4
    config.training.eval_every = 0
    config.optimizer.learning_rate = 3e-3
    # Small shapes: nothing is gained by a kernel of their own, and compiling one takes its time.
    config.kernels.staircase = "xla"
    config.kernels.window = "xla"
    return config
