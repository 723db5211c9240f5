"""How long a training step of each variant takes on one core of this machine, measured in turns.

.venv/bin/python -m experiments.residual_patching.speed FOLDER SECONDS
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp

from experiments.residual_patching.config import BASES, get_config
from scratchpatch import compilation_cache, timing
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.files import replace_text
from scratchpatch.training import optimizer
from scratchpatch.training.step import Trainer


def milliseconds(seconds: float) -> dict[str, float]:
    """Of the causal variants: the median of steps on random bytes. seconds: to measure for, in all."""
    times = timing.take_turns({variant: _step(get_config(variant)) for variant in BASES}, seconds)
    return {variant: 1e3 * times.median(variant) for variant in BASES}


def _step(config) -> Callable[[], None]:
    trainer = Trainer(config, mesh_lib.make(config))
    step, state = trainer.compile(), trainer.init()
    shape = config.training.batch_rows, config.data.window + 1
    batch = trainer.place(jax.device_get(jax.random.randint(jax.random.key(0), shape, 0, 256, jnp.int32)))
    settings = trainer.place_settings(optimizer.settings(config, 0))

    def call() -> None:
        nonlocal state
        state, _ = jax.block_until_ready(step(state, batch, settings))

    return call


if __name__ == "__main__":
    compilation_cache.enable()
    replace_text(Path(sys.argv[1], "result.json"), json.dumps(milliseconds(float(sys.argv[2]))) + "\n")
