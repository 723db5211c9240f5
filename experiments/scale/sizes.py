"""Models of four sizes, each with scratchpads, with patches alone, and byte-level: what the experiments here differ in."""

import dataclasses

from scratchpatch import config as config_lib


@dataclasses.dataclass(frozen=True)
class Size:
    """Trunk (layers x width, heads of 128, key-value heads), width of the byte tiers, widening of the feed-forward blocks."""

    layers: int
    width: int
    kv_heads: int
    d_byte: int
    ffn_multiplier: float
    fsdp: int
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
    m = config.model
    m.d_byte, m.ffn_multiplier = size.d_byte, size.ffn_multiplier
    m.encoder.layers, m.decoder.layers = 2, 4
    m.encoder.window = m.decoder.window = 512
    m.encoder.heads = m.decoder.heads = m.pooling.heads = size.d_byte // 128
    m.entropy_head.weight = 0.0
    m.trunk.layers, m.trunk.d_model = size.layers, size.width
    m.trunk.heads, m.trunk.kv_heads = size.width // 128, size.kv_heads
    config.patching.kind, config.trigger.kind = "byte", "none"
    config.training.batch_rows, config.training.steps = 512, 100_000
    config.training.remat, config.training.dtype = "full", "bfloat16"
    config.optimizer.learning_rate, config.optimizer.warmup_steps = size.learning_rate, 2000
    config.mesh.fsdp = size.fsdp
    return config


def patches(name: str):
    """Patches of 16 bytes, and no scratchpads."""
    config = byte(name)
    config.patching.kind, config.patching.patch_bytes = "fixed", 16
    return config


def scratchpads(name: str):
    """Patches of 16 bytes, and scratchpads by entropy at 0.22 of the bytes, with a budget a tenth above."""
    config = patches(name)
    config.model.entropy_head.layers, config.model.entropy_head.weight = 2, 1.0
    config.trigger.kind, config.trigger.rate, config.trigger.gain, config.trigger.capacity = "entropy", 0.22, 0.01, 0.242
    return config
