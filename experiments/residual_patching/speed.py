"""How long a training step of each variant takes on this machine, measured in turns."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from experiments.residual_patching.config import BASES, get_config
from scratchpatch import timing
from scratchpatch.distributed import mesh as mesh_lib
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
