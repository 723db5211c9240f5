"""Windows from the disk into the train loop."""

from __future__ import annotations

import time

from scratchpatch import config as config_lib
from scratchpatch.bench.results import Result, at_least
from scratchpatch.data.batches import Batches

_WINDOW, _SECONDS, _WARM_UP = 1024, 3.0, 8


def measure(config) -> Result:
    """MB of window bytes per second that one reading thread hands to the loop."""
    config = config_lib.from_flat(config_lib.flat(config))
    config.data.window, config.data.threads = _WINDOW, 1
    batches = Batches(config)
    rate, count = _rate(batches, config.training.batch_rows * _WINDOW)
    return Result(
        "windows into the train loop, one reading thread",
        {"windows": {"megabytes_per_second": rate, "batches": count, "rows": batches.rows, "window_bytes": _WINDOW}},
        (at_least("megabytes per second", rate, 20.0),),
    )


def _rate(batches: Batches, step_bytes: int) -> tuple[float, int]:
    steps = batches.iterate()
    # What was read ahead while nobody asked would count as speed.
    for _ in range(_WARM_UP):
        next(steps)
    count, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < _SECONDS:
        next(steps)
        count += 1
    return count * step_bytes / passed / 1e6, count
