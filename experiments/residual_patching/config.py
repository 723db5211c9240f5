"""Residual byte patching, with its leaks and without: does "3.5 times faster and 0.64 BPB better" hold?

Purpose: the six variants of a published experiment ("Residual byte patching", terminus.ink, 2026-04-07): width 256,
four layers of diagonal states over patches of 4 bytes in windows of 1024, the byte's embedding added back. There the
windows are pooled and spread over their own bytes without a shift, so that a byte reads the bytes that it has to
predict. A to D are built that way (`_leaky`) and causally; E has no patches, F layers of states over bytes behind them.
Variants: see VARIANTS. What is not published is ours: SwiGLU of multiplier 1, with which E has 1.86M parameters
(published 1.71M); four rows a step; states of four complex numbers a channel; F's decoder, two layers of states that
begin anew at each patch where the post has a GRU; C's Gaussian, fixed to patches of 4 with learnt place and width.
Hardware: 2 CPU cores.
Expected time: about an hour for all variants on two seeds.
Expected number: README.md beside this file has all numbers of the last run.
Command, for everything:
    .venv/bin/python -m experiments.residual_patching.run
Command, for one variant:
    scratchpatch train --config=experiments/residual_patching/config.py:a --workdir=runs/residual_a
"""

from experiments import corpora
from scratchpatch import config as config_lib

CORPUS = "pt_machado"
BASES = ("a", "b", "c", "d", "e", "f")
LEAKY = ("a_leaky", "b_leaky", "c_leaky", "d_leaky")
# As long as E trains, by the clock.
LONG = ("a_long", "a_leaky_long")
VARIANTS = (*BASES, *LEAKY, *LONG)
# How many steps a patch model takes in the time of one step of E: measured, see README.md beside this file.
STEPS_OF_LONG = 3.5


def get_config(variant: str = "a"):
    """The config of a variant. Raises ValueError where there is none."""
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; wanted one of {', '.join(VARIANTS)}")
    base = variant[0]
    config = config_lib.default()
    config.data.sources = ((corpora.source(CORPUS), 1.0),)
    config.data.validation_sources = ((corpora.source(CORPUS, "validation"), 1.0),)
    config.data.window = 1024
    config.model.d_byte = 256
    config.model.ffn_multiplier = 1.0
    config.model.encoder.layers = 0
    config.model.entropy_head.weight = 0.0
    config.model.pooling.kind = {"b": "cross_attention", "c": "gaussian"}.get(base, "mean")
    config.model.pooling.last_state = False
    config.model.trunk.kind = "ssm"
    config.model.trunk.layers = 4
    config.model.trunk.d_model = 256
    config.model.decoder.layers = 0
    config.patching.patch_bytes = 4
    config.trigger.kind = "none"
    if base == "d":
        config.model.entropy_head.weight = 1.0
        config.model.entropy_head.layers = 1
        config.model.encoder.window = 16
        config.patching.kind = "entropy"
        config.patching.gain = 0.01
        config.patching.max_patch_bytes = 12
    if base == "e":
        config.patching.kind = "byte"
    if base == "f":
        config.model.decoder.kind = "ssm"
        config.model.decoder.layers = 2
        config.model.decoder.scope = "patch"
    if "leaky" in variant:
        config.model.leak = "gaussian" if base == "c" else "broadcast"
        config.training.allow_leak = True
    config.training.steps = 1000
    config.training.batch_rows = 4
    config.training.eval_every = 0
    config.training.checkpoint_every = 250
    config.optimizer.learning_rate = 5e-3
    return config
