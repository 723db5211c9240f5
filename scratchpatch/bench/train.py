"""The train step: against the byte-level model of the same trunk, a plain PyTorch loop, the machine's fastest matrix
product, and evaluation.
"""

import contextlib
import importlib.util
import math
import time
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from scratchpatch import config as config_lib, timing
from scratchpatch.accounting import flops
from scratchpatch.bench import models
from scratchpatch.bench.results import Result, at_least
from scratchpatch.data.batches import Batches
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.evaluation import bpb
from scratchpatch.inference import windows
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.model import weights as weights_lib
from scratchpatch.training import optimizer
from scratchpatch.training.entropies import fingerprint
from scratchpatch.training.start import given_weights
from scratchpatch.training.step import Trainer

# Of the models of the config, and of each flat shape.
_SECONDS, _FLAT_SECONDS = 40.0, 15.0
# The config's model in other sizes of patches.
_VARIANTS = {
    "byte-level": models.byte_level, "patches of 16": models.long_patches, "small BLT": models.small_blt,
}
_GEMM_SIZE = 2048
# Positions that an evaluation answers for in one call, twice as many computed.
_EVALUATED = 1 << 14
_SHARE, _OVER_TORCH, _OVER_TRAINING = 0.5, 1.2, 3.0


def measure(config) -> Result:
    """Bytes/s, share of the machine's matrix product, compile time and memory of each."""
    measured = [_of_config(config), *(_flat(config, *shape) for shape in models.FLAT_SHAPES)]
    numbers, targets, notes = {}, [], []
    for some_numbers, some_targets, some_notes in measured:
        numbers |= some_numbers
        targets += some_targets
        notes += [note for note in some_notes if note not in notes]
    return Result("the train step, beside others and beside evaluation", numbers, tuple(targets), tuple(notes))


def _of_config(config):
    """The config's model, its byte-level twin, its patches alone, a BLT of its widths; and the first one evaluated."""
    configs = {"config": config} | {name: variant(config) for name, variant in _VARIANTS.items()}
    with nothing_cached():
        subjects = {name: Subject(each) for name, each in configs.items()}
    gemm, evaluation = Gemm(), Evaluation(config)
    times = timing.take_turns(subjects | {"gemm": gemm, "evaluation": evaluation}, _SECONDS)
    peak = gemm.flops / times.best("gemm")
    numbers = {name: _numbers(subject, times.median(name), peak) for name, subject in subjects.items()}
    numbers["evaluation"] = evaluation.numbers(times.median("evaluation"), peak)
    # The byte-level twin is there for comparison, and no size that one would train.
    targets = [
        at_least(f"{name}: share of the GEMM peak", numbers[name]["share_of_gemm_peak"], _SHARE)
        for name in subjects if name != "byte-level"
    ]
    ratio = times.ratio("config", "evaluation") * evaluation.bytes / subjects["config"].bytes
    targets.append(at_least("config: evaluation over training, bytes/s", ratio, _OVER_TRAINING))
    notes = (
        f"the config's model is {times.ratio('byte-level', 'config'):.2f} times as fast as the byte-level one",
        "scratchpads and commits are those of the batch; a step computes every slot of its static arrays",
        f"GEMM peak: the best product of two float32 matrices of {_GEMM_SIZE} x {_GEMM_SIZE} of its turns; shares "
        "are of useful FLOPs, recomputation and empty slots not counted",
        "evaluation: what `eval` does with the config's model, compressors left out; windows overlap by half, so each "
        "byte of a long text is computed twice, and FLOPs are those of what is computed",
    )
    return numbers, targets, notes


def _flat(config, rows: int, window: int):
    """The flat byte model beside the PyTorch loop, at one shape."""
    config, shape = models.flat_byte(config, rows, window), f"{rows} x {window}"
    ours, peer = f"flat {shape}", f"torch {shape}"
    with nothing_cached():
        subject = Subject(config)
    calls, gemm = {ours: subject}, Gemm()
    if importlib.util.find_spec("torch"):
        from scratchpatch.bench import flat

        calls[peer] = flat.Loop(config, Batches(config).batch(0))
    times = timing.take_turns(calls | {"gemm": gemm}, _FLAT_SECONDS)
    peak = gemm.flops / times.best("gemm")
    numbers = {ours: _numbers(subject, times.median(ours), peak)}
    if peer not in calls:
        return numbers, [], ["torch not installed, so nothing stands beside the flat model: pip install torch==2.13.0"]
    loop, seconds = calls[peer], times.median(peer)
    numbers[peer] = _rates(loop.bytes, loop.flops, seconds, peak) | {"parameters": loop.parameters}
    ratio = times.best(peer) / times.best(ours)
    notes = (
        "flat against torch: plain byte models of 4 layers, 4 heads and width 128, rows x bytes; forward, backward, "
        "clipping and AdamW in float32; ratios are of the fastest turns, since torch's waiting threads suffer most "
        "from whatever else runs",
    )
    return numbers, [at_least(f"flat over torch, {shape}", ratio, _OVER_TORCH)], notes


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


class Gemm:
    """A large product of two float32 matrices, called again and again. flops: of one call."""

    def __init__(self):
        self._factors = (jnp.ones((_GEMM_SIZE, _GEMM_SIZE), jnp.float32),) * 2
        self._multiply = jax.jit(lambda a, b: jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST))
        self.flops = 2.0 * _GEMM_SIZE**3

    def __call__(self) -> None:
        jax.block_until_ready(self._multiply(*self._factors))


class Evaluation:
    """Bits per byte of the beginning of the config's text, by random weights, again and again. bytes: that are answered
    for; computed: those of the overlapping windows.
    """

    def __init__(self, config):
        self._model = LanguageModel(config, weights_lib.random(config, config.seed))
        stream, _ = Batches(config).streams[0]
        self._text = windows.Head(stream, _EVALUATED)
        self.bytes = len(self._text)
        self.computed = windows.count(self.bytes, config.data.window) * config.data.window

    def __call__(self) -> None:
        self._said = bpb.measure(self._model, [self._text], compressor_bytes=0, label="")

    def numbers(self, seconds: float, peak: float) -> dict:
        """As `_rates`, of calls that take so many seconds."""
        rates = _rates(self.computed, self._said["flops_per_byte"] * self.computed, seconds, peak)
        shown = ("kiloflops_per_byte", "gigaflops_per_second", "gemm_gigaflops_per_second", "share_of_gemm_peak")
        speeds = {"bytes_per_second": self.bytes / seconds, "computed_bytes_per_second": self.computed / seconds}
        return speeds | {name: rates[name] for name in shown}


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


def _rates(step_bytes: int, step_flops: float, seconds: float, peak: float) -> dict:
    """peak: FLOP/s of the machine's fastest matrix product."""
    return {
        "bytes_per_second": step_bytes / seconds, "step_milliseconds": seconds * 1e3, "bytes_per_step": step_bytes,
        "kiloflops_per_byte": step_flops / step_bytes / 1e3, "gigaflops_per_second": step_flops / seconds / 1e9,
        "gemm_gigaflops_per_second": peak / 1e9, "share_of_gemm_peak": step_flops / seconds / peak,
    }


def _numbers(subject: Subject, seconds: float, peak: float) -> dict:
    sums = subject.sums
    return _rates(subject.bytes, flops.trained(subject.config, sums), seconds, peak) | {
        "parameters": subject.parameters,
        "trunk_calls_per_byte": (sums["commits"] + sums["scratchpads"]) / sums["positions"],
        "trunk_slots_per_byte": subject.trunk_calls_per_byte, "compile_seconds": subject.compile_seconds,
        "memory_megabytes": subject.memory_bytes / 1e6,
    }
