"""One config's train step, compiled, with one batch in place."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from scratchpatch import config as config_lib
from scratchpatch.data.batches import Batches
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.training import optimizer
from scratchpatch.training.entropies import fingerprint
from scratchpatch.training.start import given_weights
from scratchpatch.training.step import Trainer


class Subject:
    """A train step that is called again and again on the config's first batch.

    Attributes:
        bytes: input positions of a step.
        trunk_calls_per_byte: slots of the static arrays, filled or not.
        compiled: the step's executable.
        compile_seconds: tracing and compiling.
        parameters: how many.
        state_bytes: of parameters, moments and what else the step carries along.
    """

    def __init__(self, config):
        self.config = config
        self._trainer = Trainer(config, mesh_lib.make(config))
        began = time.perf_counter()
        self.compiled = self._trainer.compile()
        self.compile_seconds = time.perf_counter() - began
        self._state = self._trainer.init()
        self.parameters = sum(x.size for x in jax.tree.leaves(self._state["params"]))
        self.state_bytes = sum(x.nbytes for x in jax.tree.leaves(self._state))
        batches = Batches(config)
        if config.data.entropies:
            self._state |= given_weights(config, self._trainer.shardings)
            batches.open_entropies(fingerprint(config, self._state["frozen"]))
        self._batch = self._trainer.place(*batches.arrays(0))
        self.bytes = config.training.batch_rows * config.data.window
        self.trunk_calls_per_byte = sum(config_lib.slots(config)) / config.data.window
        self._settings = self._trainer.place_settings(optimizer.settings(config, config.optimizer.warmup_steps))
        self._sums = None

    def __call__(self) -> None:
        """One step, finished when this returns."""
        self._state, self._sums = self.compiled(self._state, self._batch, self._settings)
        jax.block_until_ready((self._state, self._sums))

    @property
    def memory_bytes(self) -> int:
        """Most bytes of the compiled step at once: state, batch, results and temporaries."""
        m = self.compiled.memory_analysis()
        return m.argument_size_in_bytes + m.output_size_in_bytes + m.temp_size_in_bytes - m.alias_size_in_bytes

    @property
    def sums(self) -> dict[str, float]:
        """Of the latest step; see `loss.sums`."""
        return {name: float(value) for name, value in jax.device_get(self._sums).items()}

    @property
    def widths(self) -> frozenset[int]:
        """Sizes of axes of parameters: what is wide whatever the window."""
        return frozenset(n for x in jax.tree.leaves(self._state["params"]) for n in (*x.shape, math.prod(x.shape)))


@contextlib.contextmanager
def nothing_cached() -> Iterator[None]:
    """Compile everything anew inside: the time of a compilation, not of a cache."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    jax_cache.reset_cache()
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        jax_cache.reset_cache()
