"""What a byte costs at inference with patches of 4, 6, 8 and 16 bytes: useful FLOPs, and seconds of this machine.

Models have random weights. Seconds are of a forward pass over rows of whole patches, measured in turns.
"""

import jax
import jax.numpy as jnp

from experiments.compare.config import RATE, model
from scratchpatch import timing
from scratchpatch.accounting import flops
from scratchpatch.model import weights as weights_lib

SIZES = (4, 6, 8, 16)
# Systems whose patches have a size, and the one that has none.
SIZED, FLAT = ("p8", "p8_scratchpads", "megabyte"), "flat"
# Whole patches of each size.
_WINDOW, _ROWS = 480, 4


def config_of(system: str, patch_bytes: int):
    config = model(system)
    config.data.window = _WINDOW
    if system != FLAT:
        config.patching.patch_bytes = patch_bytes
        config.model.decoder.window = max(config.model.decoder.window, patch_bytes)
    return config


def rows(seconds: float) -> list[dict]:
    """Of each system and size: FLOPs per byte, of these the trunk's, and seconds per byte. seconds: to measure for."""
    made = {(system, size): config_of(system, size) for system in SIZED for size in SIZES}
    made[FLAT, 1] = config_of(FLAT, 1)
    tokens_BL = jax.random.randint(jax.random.key(0), (_ROWS, _WINDOW), 0, 256, jnp.int32)

    def call(config):
        definition, _ = weights_lib.abstract(config)
        weights = weights_lib.random(config, 0)
        forward = jax.jit(lambda w, t: weights_lib.merge(definition, w)(t).logits_BLV)
        return lambda: forward(weights, tokens_BL).block_until_ready()

    times = timing.take_turns({f"{system} {size}": call(config) for (system, size), config in made.items()}, seconds)
    return [
        row(config, system, size) | {"seconds": times.median(f"{system} {size}") / tokens_BL.size}
        for (system, size), config in made.items()
    ]


def row(config, system: str, size: int) -> dict:
    scratchpads = RATE if config.trigger.kind != "none" else 0.0
    tiers = flops.inference(config, 1 / size, scratchpads, _WINDOW)
    return {"system": system, "patch_bytes": size, "flops": sum(tiers.values()), "trunk": tiers["trunk"]}
