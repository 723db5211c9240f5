"""Byte-level twin of sp_1b_p16: the same tiers, the trunk at every byte.

Purpose: what 16-byte patches with scratchpads are measured against.
Hardware: a pod of 64 or more accelerators.
Expected time: not run; `account` gives the FLOPs.
Expected number: 2.86 GFLOPs and 160 KiB of KV cache per byte at inference (account).
Command:
    scratchpatch account --config=experiments/scale/byte_1b.py
"""

from scratchpatch import config as config_lib


def get_config():
    config = config_lib.default()
    config.data.window = 8192
    config.model.d_byte = 1024
    config.model.encoder.layers = 2
    config.model.encoder.window = 512
    config.model.encoder.heads = 16
    config.model.entropy_head.weight = 0.0
    config.model.pooling.heads = 16
    config.model.trunk.layers = 20
    config.model.trunk.d_model = 2048
    config.model.trunk.heads = 16
    config.model.decoder.layers = 4
    config.model.decoder.window = 512
    config.model.decoder.heads = 16
    config.patching.kind = "byte"
    config.trigger.kind = "none"
    config.training.batch_rows = 512
    config.training.steps = 100_000
    config.training.remat = "full"
    config.training.dtype = "bfloat16"
    config.optimizer.learning_rate = 4e-4
    config.optimizer.warmup_steps = 2000
    return config
