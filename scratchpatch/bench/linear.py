"""Cost against window length: the same bytes per step in short rows and in long ones."""

from __future__ import annotations

from scratchpatch import config as config_lib
from scratchpatch.bench import arrays, timing
from scratchpatch.bench.results import Result, at_most
from scratchpatch.bench.subject import Subject

_SHORT, _LONG, _SECONDS = 2048, 8192, 30.0
# Two long rows, so that rows can be spread over cores at either length.
_STEP_BYTES = 2 * _LONG


def measure(config) -> Result:
    """Bytes/s and compiled memory per byte of both, and the largest arrays in the compiled steps."""
    subjects = {f"window {window}": Subject(at_window(config, window, _STEP_BYTES)) for window in (_SHORT, _LONG)}
    short, long = subjects
    times = timing.take_turns(subjects, _SECONDS)
    numbers, squares = {}, []
    for name, subject in subjects.items():
        slots = sum(config_lib.slots(subject.config))
        found = arrays.of(subject.compiled.as_text())
        squares += [str(a) for a in arrays.squares(found, slots, subject.widths)]
        numbers[name] = {
            "bytes_per_second": subject.bytes / times.median(name),
            "rows": subject.config.training.batch_rows,
            "trunk_slots_per_row": slots,
            "memory_bytes_per_byte": subject.memory_bytes / subject.bytes,
            "largest_array": str(found[0]),
            "largest_array_bytes": found[0].bytes,
        }
    growth = numbers[long]["memory_bytes_per_byte"] / numbers[short]["memory_bytes_per_byte"]
    return Result(
        f"cost against window length, {_STEP_BYTES} bytes per step",
        numbers,
        (
            at_most(f"time per byte at {_LONG} over {_SHORT}", times.ratio(long, short), 1.3),
            at_most(f"memory per byte at {_LONG} over {_SHORT}", growth, 1.05),
            at_most("arrays with two axes as long as the row's slots", len(squares), 0),
        ),
        tuple(squares),
    )


def at_window(config, window: int, step_bytes: int):
    """`config` with rows of `window` bytes, `step_bytes` of them in a step, on one device."""
    config = config_lib.from_flat(config_lib.flat(config))
    config.data.window, config.training.batch_rows = window, max(step_bytes // window, 1)
    config.training.accumulation = 1
    config.mesh.data = config.mesh.fsdp = config.mesh.tensor = 1
    return config
