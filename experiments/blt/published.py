"""BLT of the published sizes, to count, not for this machine: 1B (4.5B parameters with its hash tables) and 8B.

Purpose: what one byte costs at 4, 6 and 8 bytes per patch (experiments/blt/compute.py).
The sizes are those of arXiv 2412.09871, table 10, and of the released 1B
checkpoint; one feed-forward multiplier serves all tiers.
Hardware: to train, a pod; `scratchpatch account` runs anywhere.
Expected number: 4,533,879,808 parameters in the 1B checkpoint, entropy model apart (a test).
Command:
    scratchpatch account --config=experiments/blt/published.py:1b-4
"""

from scratchpatch import config as config_lib

# Trunk layers, heads, width; byte width, heads; decoder layers; vectors per patch; feed-forward multiplier.
SIZES = {"1b": (25, 16, 2048, 1024, 16, 9, 2, 2.75), "8b": (32, 32, 4096, 1280, 20, 6, 4, 11008 / 4096)}


def get_config(size_and_patch="1b-4"):
    size, _, patch_bytes = size_and_patch.partition("-")
    if size not in SIZES or not patch_bytes.isdigit():
        raise ValueError(f"no model {size_and_patch!r}; wanted 1b-P or 8b-P, with P bytes per patch")
    layers, heads, width, d_byte, byte_heads, decoder_layers, vectors, multiplier = SIZES[size]
    config = config_lib.default()
    config.data.window = 8192
    m = config.model
    m.d_byte, m.norm_eps, m.rope_theta, m.ffn_multiplier, m.cross_residual = d_byte, 1e-5, 500000.0, multiplier, 2
    m.encoder.layers, m.encoder.heads, m.encoder.window = 1, byte_heads, 512
    m.encoder.ngrams, m.encoder.ngram_rows = (3, 4, 5, 6, 7, 8), 500_002
    m.entropy_head.weight = 0.0
    m.entropy_model.layers, m.entropy_model.d_byte, m.entropy_model.heads = 14, 768, 12
    m.entropy_model.norm_eps = 1e-5
    m.pooling.kind, m.pooling.queries, m.pooling.heads, m.pooling.last_state = "max_query", vectors, byte_heads, False
    m.trunk.layers, m.trunk.heads, m.trunk.d_model, m.trunk.final_norm = layers, heads, width, False
    m.decoder.layers, m.decoder.heads, m.decoder.window = decoder_layers, byte_heads, 512
    m.decoder.injection, m.decoder.context_vectors = "cross_attention", vectors
    config.patching.kind, config.patching.patch_bytes, config.patching.max_patch_bytes = "fixed", int(patch_bytes), 32
    config.trigger.kind = "none"
    config.training.remat, config.training.dtype = "full", "bfloat16"
    config.optimizer.learning_rate, config.optimizer.warmup_steps, config.optimizer.final_ratio = 4e-4, 2000, 0.01
    return config
