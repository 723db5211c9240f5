"""BLT of the published sizes, to count, not for this machine: 1B (4.5B parameters with its hash tables) and 8B.

Purpose: what one byte costs at 4, 6 and 8 bytes per patch (experiments/blt/compute.py).
The sizes are those of arXiv 2412.09871, table 10, and of the released 1B
checkpoint; one feed-forward multiplier serves all tiers.
Hardware: to train, a pod; `scratchpatch account` runs anywhere.
Expected time: `account` takes seconds; training was not run.
Expected number: 4,533,879,808 parameters in the 1B checkpoint, entropy model apart (a test).
Command:
    scratchpatch account --config=experiments/blt/published.py:1b-4
"""

import dataclasses

from scratchpatch import config as config_lib


@dataclasses.dataclass(frozen=True)
class Size:
    """What the sizes differ in; widths and heads are of the trunk, or of the byte tiers."""

    trunk_layers: int
    trunk_heads: int
    trunk_width: int
    byte_width: int
    byte_heads: int
    decoder_layers: int
    vectors_per_patch: int
    ffn_multiplier: float


SIZES = {
    "1b": Size(25, 16, 2048, 1024, 16, 9, 2, 2.75),
    "8b": Size(32, 32, 4096, 1280, 20, 6, 4, 11008 / 4096),
}


def get_config(size_and_patch="1b-4"):
    name, _, patch_bytes = size_and_patch.partition("-")
    if name not in SIZES or not patch_bytes.isdigit():
        raise ValueError(f"no model {size_and_patch!r}; wanted 1b-P or 8b-P, with P bytes per patch")
    size = SIZES[name]
    config = config_lib.default()
    config.data.window = 8192
    config.model.d_byte = size.byte_width
    config.model.norm_eps = 1e-5
    config.model.rope_theta = 500000.0
    config.model.ffn_multiplier = size.ffn_multiplier
    config.model.cross_residual = 2
    config.model.encoder.layers = 1
    config.model.encoder.heads = size.byte_heads
    config.model.encoder.window = 512
    config.model.encoder.ngrams = (3, 4, 5, 6, 7, 8)
    config.model.encoder.ngram_rows = 500_002
    config.model.entropy_head.weight = 0.0
    config.model.entropy_model.layers = 14
    config.model.entropy_model.d_byte = 768
    config.model.entropy_model.heads = 12
    config.model.entropy_model.norm_eps = 1e-5
    config.model.pooling.kind = "max_query"
    config.model.pooling.queries = size.vectors_per_patch
    config.model.pooling.heads = size.byte_heads
    config.model.pooling.last_state = False
    config.model.trunk.layers = size.trunk_layers
    config.model.trunk.heads = size.trunk_heads
    config.model.trunk.d_model = size.trunk_width
    config.model.trunk.final_norm = False
    config.model.decoder.layers = size.decoder_layers
    config.model.decoder.heads = size.byte_heads
    config.model.decoder.window = 512
    config.model.decoder.injection = "cross_attention"
    config.model.decoder.context_vectors = size.vectors_per_patch
    config.patching.kind = "fixed"
    config.patching.patch_bytes = int(patch_bytes)
    config.patching.max_patch_bytes = 32
    config.trigger.kind = "none"
    config.training.remat = "full"
    config.training.dtype = "bfloat16"
    config.optimizer.learning_rate = 4e-4
    config.optimizer.warmup_steps = 2000
    config.optimizer.final_ratio = 0.01
    return config
