"""Windows from the disk into the train loop."""

import tempfile
import time

from scratchpatch import config as config_lib
from scratchpatch.bench.results import Result, at_least
from scratchpatch.data.batches import Batches
from scratchpatch.preparation.folder import prepare

# 1 KiB of the config's own sources, and long windows of a prepared folder of text that every machine has.
_WINDOW, _LONG_WINDOW, _PREPARED = 1024, 8192, "stdlib:code"
_SECONDS, _WARM_UP = 3.0, 8


def measure(config) -> Result:
    """MB of window bytes per second that one reading thread hands to the loop."""
    sides = {"windows": _numbers(config, {"data.window": _WINDOW})}
    with tempfile.TemporaryDirectory() as folder:
        prepare(_PREPARED, f"{folder}/prepared", shard_count=4, on_bad_record="skip")
        prepared = ((f"prepared:{folder}/prepared", 1.0),)
        sides["prepared"] = _numbers(config, {"data.window": _LONG_WINDOW, "data.sources": prepared})
    rates = {side: numbers["megabytes_per_second"] for side, numbers in sides.items()}
    return Result(
        "windows into the train loop, one reading thread",
        sides,
        (
            at_least("megabytes per second", rates["windows"], 20.0),
            at_least("megabytes per second of a prepared folder", rates["prepared"], 100.0),
        ),
    )


def _numbers(config, fields: dict) -> dict[str, float]:
    config = config_lib.from_flat(config_lib.flat(config) | {"data.threads": 1} | fields)
    batches = Batches(config)
    steps = batches.iterate()
    # What was read ahead while nobody asked would count as speed.
    for _ in range(_WARM_UP):
        next(steps)
    count, began = 0, time.perf_counter()
    while (passed := time.perf_counter() - began) < _SECONDS:
        next(steps)
        count += 1
    return {
        "megabytes_per_second": count * config.training.batch_rows * config.data.window / passed / 1e6,
        "batches": count, "rows": batches.rows, "window_bytes": config.data.window,
    }
