"""H-Net, one stage: patches that a router learns with the model (arXiv 2507.07955).

Purpose: learned patches beside fixed, whitespace and entropy ones, with and
without scratchpads, and with compression that rises while the model trains.
README.md beside this file says what differs from the paper.
Hardware: 2 CPU cores.
Expected time: 11 minutes on one core beside other work, for each variant.
Expected number: 2.16 BPB of the held-out split for plain, 2.10 for curriculum,
2.13 for scratchpads; README.md beside this file has all, and the rates.
Command, for one variant:
    scratchpatch train --config=experiments/hnet/config.py:plain --workdir=runs/hnet_plain
"""

from scratchpatch import config as config_lib

VARIANTS = ("plain", "curriculum", "scratchpads", "scratchpads_curriculum")


def get_config(variant="plain"):
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; wanted one of {', '.join(VARIANTS)}")
    config = config_lib.default()
    config.data.sources = (("stdlib:code", 0.9), ("stdlib:prose", 0.1))
    config.data.window = 512
    config.model.d_byte = 64
    config.model.encoder.layers = 2
    config.model.encoder.window = 32
    # Of a patch the trunk reads the state at its boundary.
    config.model.pooling.kind = "last"
    config.model.pooling.last_state = False
    config.model.smoothing = True
    config.model.trunk.layers = 3
    config.model.trunk.d_model = 128
    config.model.trunk.heads = 4
    config.model.decoder.layers = 2
    config.model.decoder.window = 32
    config.model.decoder.residual = "projected"
    config.patching.kind = "learned"
    config.patching.patch_bytes = 6
    # A fresh router asks at nearly half of the bytes, and the rate of a document is its own.
    config.patching.capacity = 0.5
    config.training.steps = 1200
    config.training.batch_rows = 4
    config.training.eval_every = 600
    config.training.checkpoint_every = 600
    config.optimizer.learning_rate = 2e-3
    # The outer layers learn faster than the trunk, as in the paper; how much faster is ours.
    config.optimizer.encoder_scale = 2.0
    config.optimizer.decoder_scale = 2.0
    if "curriculum" in variant:
        config.patching.curriculum_from = 3.0
        config.patching.curriculum_steps = 600
    if "scratchpads" in variant:
        config.trigger.kind = "entropy"
        config.trigger.rate = 1 / 8
        config.trigger.gain = 0.01
        config.model.entropy_head.layers = 1
    else:
        config.trigger.kind = "none"
        # Nothing else reads entropies.
        config.model.entropy_head.weight = 0.0
    return config
