"""Patch lag: what do stale patches cost, and what do scratchpads give back?

Purpose: byte-level, smaller patches, and 16-byte patches with scratchpads
chosen in four ways, all of one trunk, at equal bytes. A rate of 3/16 makes
p=16 with scratchpads and p=4 call the trunk exactly as often.
The text is that of $SCRATCHPATCH_DATA (../README.md).
Hardware: 2 CPU cores.
Expected time: about 45 minutes for all 17 variants on two seeds.
Expected number: p=16 is 0.06 BPB above byte-level; README.md beside this file has all numbers of the last run.
Command, for everything:
    .venv/bin/python -m experiments.patch_lag.run
Command, for one variant:
    scratchpatch train --config=experiments/patch_lag/config.py:p16_entropy_last --workdir=runs/p16_entropy_last
"""

from experiments import corpora
from scratchpatch import config as config_lib

CORPORA = ("en_books", "code")
RATE = 3 / 16
BASES = ("byte", "p4", "p8", "p16", "p16_entropy", "p16_stride", "p16_random", "p16_every")
# Patches whose bytes stand one behind the other instead of being pooled.
CONCAT = ("p16_entropy_concat", "p16_every_concat")
# Of one byte, the pooled vector is the last state already.
VARIANTS = (*(name for base in BASES for name in ((base,) if base == "byte" else (base, f"{base}_last"))), *CONCAT)


def get_config(variant="p16_entropy_last"):
    base = variant.removesuffix("_last").removesuffix("_concat")
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; wanted one of {', '.join(VARIANTS)}")
    config = config_lib.default()
    config.data.sources = tuple((corpora.source(corpus), 0.5) for corpus in CORPORA)
    config.data.validation_sources = tuple((corpora.source(corpus, "validation"), 0.5) for corpus in CORPORA)
    config.data.window = 512
    config.model.d_byte = 64
    config.model.encoder.window = 16
    config.model.entropy_head.layers = 1
    config.model.pooling.last_state = variant.endswith("_last")
    if variant in CONCAT:
        config.model.pooling.kind = "concat"
    config.model.trunk.layers = 4
    config.model.trunk.d_model = 128
    config.model.trunk.heads = 4
    config.model.decoder.layers = 1
    config.model.decoder.window = 16
    config.training.steps = 1000
    config.training.batch_rows = 2
    config.training.eval_every = 0
    config.training.checkpoint_every = 400
    config.optimizer.learning_rate = 3e-3
    patches, _, trigger = base.partition("_")
    if patches == "byte":
        config.patching.kind = "byte"
    else:
        config.patching.patch_bytes = int(patches[1:])
    config.trigger.kind = trigger or "none"
    # A random trigger draws at the 15 of 16 bytes where no commit stands.
    config.trigger.rate = RATE * 16 / 15 if trigger == "random" else RATE
    config.trigger.gain = 0.01
    config.trigger.stride = 4
    if trigger != "entropy":
        # Nothing else reads entropies: the plain models do not pay for a head.
        config.model.entropy_head.weight = 0.0
    return config
