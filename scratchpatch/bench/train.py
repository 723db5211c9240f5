"""The train step against the byte-level model with the same trunk, on the same bytes."""

from __future__ import annotations

from scratchpatch import config as config_lib
from scratchpatch.accounting import flops
from scratchpatch.bench import timing
from scratchpatch.bench.results import Result
from scratchpatch.bench.subject import Subject, nothing_cached

_SECONDS = 15.0


def measure(config) -> Result:
    """Bytes/s, FLOPs per byte, compile time and memory of both."""
    configs = {"config": config, "byte-level": byte_level(config)}
    with nothing_cached():
        subjects = {name: Subject(c) for name, c in configs.items()}
    times = timing.take_turns(subjects, _SECONDS)
    numbers = {name: _numbers(subject, times.median(name)) for name, subject in subjects.items()}
    ratio = times.ratio("byte-level", "config")
    return Result(
        "the train step against the byte-level model with the same trunk",
        numbers,
        notes=(
            f"the config's model is {ratio:.2f} times as fast as the byte-level one",
            "scratchpads and commits are those of the batch; a step computes every slot of its static arrays",
        ),
    )


def byte_level(config):
    """The same encoder, trunk and decoder with a trunk call at every byte, and nothing that decides."""
    config = config_lib.from_flat(config_lib.flat(config))
    config.patching.kind, config.trigger.kind = "byte", "none"
    config.model.entropy_head.weight = 0.0
    return config


def _numbers(subject: Subject, seconds: float) -> dict:
    sums = subject.sums
    per_byte = flops.trained(subject.config, sums) / subject.bytes
    return {
        "bytes_per_second": subject.bytes / seconds,
        "step_milliseconds": seconds * 1e3,
        "bytes_per_step": subject.bytes,
        "parameters": subject.parameters,
        "trunk_calls_per_byte": (sums["commits"] + sums["scratchpads"]) / sums["positions"],
        "trunk_slots_per_byte": sum(config_lib.slots(subject.config)) / subject.config.data.window,
        "kiloflops_per_byte": per_byte / 1e3,
        "gigaflops_per_second": per_byte * subject.bytes / seconds / 1e9,
        "compile_seconds": subject.compile_seconds,
        "memory_megabytes": subject.memory_bytes / 1e6,
    }
