"""The train step, and how it compares with the byte-level model of the same trunk on the same bytes."""

import contextlib
import math
import time
from collections.abc import Iterator

import jax
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from scratchpatch import config as config_lib, timing
from scratchpatch.accounting import flops
from scratchpatch.bench.results import Result
from scratchpatch.data.batches import Batches
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.training import optimizer
from scratchpatch.training.entropies import fingerprint
from scratchpatch.training.start import given_weights
from scratchpatch.training.step import Trainer

_SECONDS = 15.0


def measure(config) -> Result:
    """Bytes/s, FLOPs per byte, compile time and memory of both."""
    with nothing_cached():
        subjects = {"config": Subject(config), "byte-level": Subject(byte_level(config))}
    times = timing.take_turns(subjects, _SECONDS)
    return Result(
        "the train step against the byte-level model with the same trunk",
        {name: _numbers(subject, times.median(name)) for name, subject in subjects.items()},
        notes=(
            f"the config's model is {times.ratio('byte-level', 'config'):.2f} times as fast as the byte-level one",
            "scratchpads and commits are those of the batch; a step computes every slot of its static arrays",
        ),
    )


def byte_level(config):
    """The same encoder, trunk and decoder with a trunk call at every byte, and nothing that decides."""
    fields = {"patching.kind": "byte", "trigger.kind": "none", "model.entropy_head.weight": 0.0}
    return config_lib.from_flat(config_lib.flat(config) | fields)


class Subject:
    """A compiled train step that is called again and again on the config's first batch. bytes: input positions of a
    step. trunk_calls_per_byte: slots of the static arrays, filled or not. state_bytes: of parameters, moments and what
    else the step carries along.
    """

    def __init__(self, config):
        self.config = config
        trainer = Trainer(config, mesh_lib.make(config))
        began = time.perf_counter()
        self.compiled = trainer.compile()
        self.compile_seconds = time.perf_counter() - began
        self._state = trainer.init()
        self.parameters = sum(x.size for x in jax.tree.leaves(self._state["params"]))
        self.state_bytes = sum(x.nbytes for x in jax.tree.leaves(self._state))
        batches = Batches(config)
        if config.data.entropies:
            self._state |= given_weights(config, trainer.shardings)
            batches.open_entropies(fingerprint(config, self._state["frozen"]))
        self._batch = trainer.place(*batches.arrays(0))
        self.bytes = config.training.batch_rows * config.data.window
        self.trunk_calls_per_byte = sum(config_lib.slots(config)) / config.data.window
        self._settings = trainer.place_settings(optimizer.settings(config, config.optimizer.warmup_steps))
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
        """Those of the latest step; see `loss.sums`."""
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


def _numbers(subject: Subject, seconds: float) -> dict:
    sums = subject.sums
    per_byte = flops.trained(subject.config, sums) / subject.bytes
    return {
        "bytes_per_second": subject.bytes / seconds, "step_milliseconds": seconds * 1e3,
        "bytes_per_step": subject.bytes, "parameters": subject.parameters,
        "trunk_calls_per_byte": (sums["commits"] + sums["scratchpads"]) / sums["positions"],
        "trunk_slots_per_byte": subject.trunk_calls_per_byte, "kiloflops_per_byte": per_byte / 1e3,
        "gigaflops_per_second": per_byte * subject.bytes / seconds / 1e9, "compile_seconds": subject.compile_seconds,
        "memory_megabytes": subject.memory_bytes / 1e6,
    }
