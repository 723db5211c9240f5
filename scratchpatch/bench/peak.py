"""`python -m scratchpatch.bench.peak`: resident memory of one side of `bench peer`, in a process of its own.

It reads one JSON object from standard input and prints one. What getrusage reports of a child begins with its parent's.
"""

import ctypes
import gc
import json
import re
import sys
from pathlib import Path

import jax

from scratchpatch import compilation_cache, config as config_lib
from scratchpatch.bench.train import Subject
from scratchpatch.data.batches import Batches

_STEPS = 3
_PROC = Path("/proc/self")


def resident(which: str) -> int:
    """Bytes; VmRSS: now, VmHWM: the most since the process began or `forget` was called."""
    return int(re.search(rf"{which}:\s+(\d+) kB", (_PROC / "status").read_text())[1]) * 1024


def forget() -> None:
    """Give freed memory back to the system, and let the peak begin anew."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    # proc(5): 5 resets the peak resident set.
    (_PROC / "clear_refs").write_text("5")


def main() -> None:
    task = json.loads(sys.stdin.read())
    config = config_lib.from_flat(task["config"])
    # All imports, and the threads that they start, come before the count begins.
    if task["blt"]:
        from scratchpatch.bench import blt
    compilation_cache.enable()
    jax.devices()
    tokens_BM = Batches(config).batch(0)
    before = resident("VmRSS")
    if task["blt"]:
        patch_bytes, parameters, parts = task["blt"]
        step = blt.Blt(config, patch_bytes, parameters, tokens_BM, parts)
    else:
        step = Subject(config)
    step()
    started = resident("VmHWM")
    forget()
    rest = resident("VmRSS")
    for _ in range(_STEPS):
        step()
    peak = resident("VmHWM")
    # What else stays between steps (code, traces, freed memory in pieces) does not grow with the model or the batch.
    memory = {"step_memory": peak - rest + step.state_bytes, "process": max(peak, started) - before}
    print(json.dumps({f"{name}_megabytes": value / 1e6 for name, value in memory.items()}))


if __name__ == "__main__":
    main()
