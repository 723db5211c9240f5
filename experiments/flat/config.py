"""Flat byte models: no patches, with full attention and with local windows.

Purpose: what everything else is compared with. `full` is the trunk alone, with a patch for every byte. `windows` is
what SpaceByte's table 1 (arXiv 2404.14408) calls byte-level with window attention: the same depth and width, and every
layer sees as many bytes as the model is wide. It is a model without a trunk, whose encoder has all the layers.
`full_paper` and `windows_paper` are shapes of the grid behind that table (10^19 FLOPs); there the full model reads rows
of as many bytes as it is wide, and the one with windows six times as many.
Hardware: 1 CPU core; the paper's shapes (to count and to plan) a GPU.
Expected time: 10 minutes (an estimate: 4 MB at 7 kB/s).
Expected number: in experiments/compare; this config alone was not run to its end.
Command:
    scratchpatch train --config=experiments/flat/config.py:windows --workdir=runs/flat_windows
"""

from experiments import corpora
from scratchpatch import config as config_lib

VARIANTS = ("full", "windows", "full_paper", "windows_paper")


def get_config(variant="full"):
    if variant not in VARIANTS:
        raise ValueError(f"no variant {variant!r}; wanted one of {', '.join(VARIANTS)}")
    attention, _, paper = variant.partition("_")
    width = 768 if paper else 128
    layers = 32 if paper else 4
    heads = 12 if paper else 4
    config = config_lib.default()
    config.data.sources = corpora.mixture("en_books", "code")
    config.data.validation_sources = corpora.mixture("en_books", "code", split="validation")
    config.data.window = 512
    config.model.d_byte = width
    config.model.entropy_head.weight = 0.0
    config.model.decoder.layers = 0
    config.trigger.kind = "none"
    if attention == "full":
        config.model.encoder.layers = 0
        config.model.pooling.kind = "last"
        config.model.pooling.last_state = False
        config.model.trunk.layers = layers
        config.model.trunk.d_model = width
        config.model.trunk.heads = heads
        config.patching.kind = "byte"
    else:
        config.model.encoder.layers = layers
        config.model.encoder.heads = heads
        config.model.encoder.window = width
        config.model.trunk.kind = "none"
    config.training.steps = 1000
    config.training.batch_rows = 8
    config.training.eval_every = 0
    config.training.checkpoint_every = 500
    config.optimizer.learning_rate = 3e-3
    config.optimizer.b2 = 0.98
    if paper:
        config.data.window = 768 if attention == "full" else 4608
        config.training.batch_rows = 64
        config.training.dtype = "bfloat16"
    return config
