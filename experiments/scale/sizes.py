"""Models of four sizes, each with scratchpads, with patches alone, and byte-level: what the experiments here differ in.

Purpose: sp_*.py, patch_*.py and byte_*.py in this folder are these three functions at four sizes.
"""

import dataclasses

from scratchpatch import config as config_lib


@dataclasses.dataclass(frozen=True)
class Size:
    """What the sizes differ in. Heads of the trunk and of the byte tiers are 128 wide."""

    layers: int  # of the trunk
    width: int  # of the trunk
    kv_heads: int  # key-value heads of the trunk
    d_byte: int  # width of the byte tiers
    ffn_multiplier: float  # widening of the feed-forward blocks
    fsdp: int  # devices that share parameters
    learning_rate: float


SIZES = {
    "150m": Size(12, 1024, 8, 384, 8 / 3, 8, 1e-3),
    "1b": Size(20, 2048, 16, 1024, 8 / 3, 16, 4e-4),
    "2b": Size(24, 2560, 20, 1024, 8 / 3, 16, 3e-4),
    "8b": Size(32, 4096, 8, 1536, 3.5, 16, 2e-4),
}


def byte(name: str):
    """A byte-level model: every byte is a patch."""
    size = SIZES[name]
    config = config_lib.default()
    config.data.window = 8192
    config.model.d_byte = size.d_byte
    config.model.ffn_multiplier = size.ffn_multiplier
    config.model.encoder.layers = 2
    config.model.encoder.window = 512
    config.model.encoder.heads = size.d_byte // 128
    config.model.decoder.layers = 4
    config.model.decoder.window = 512
    config.model.decoder.heads = size.d_byte // 128
    config.model.pooling.heads = size.d_byte // 128
    config.model.entropy_head.weight = 0.0
    config.model.trunk.layers = size.layers
    config.model.trunk.d_model = size.width
    config.model.trunk.heads = size.width // 128
    config.model.trunk.kv_heads = size.kv_heads
    config.patching.kind = "byte"
    config.trigger.kind = "none"
    config.training.batch_rows = 512
    config.training.steps = 100_000
    config.training.remat = "full"
    config.training.dtype = "bfloat16"
    config.optimizer.learning_rate = size.learning_rate
    config.optimizer.warmup_steps = 2000
    config.mesh.fsdp = size.fsdp
    return config


def patches(name: str):
    """Patches of 16 bytes, and no scratchpads."""
    config = byte(name)
    config.patching.kind = "fixed"
    config.patching.patch_bytes = 16
    return config


def scratchpads(name: str):
    """Patches of 16 bytes, and scratchpads by entropy at 0.22 of the bytes, with a budget a tenth above."""
    config = patches(name)
    config.model.entropy_head.layers = 2
    config.model.entropy_head.weight = 1.0
    config.trigger.kind = "entropy"
    config.trigger.rate = 0.22
    config.trigger.gain = 0.01
    config.trigger.capacity = 0.242
    return config
