"""`python -m scratchpatch.bench.peak`: resident memory of one side of `bench peer`, in a process of its own.

Reads one JSON object from standard input, prints one. The resident memory is
that of /proc: what getrusage reports of a child begins with its parent's.
"""

import json
import re
import sys
from pathlib import Path

_STEPS = 3


def _resident(which: str) -> int:
    """Bytes; VmRSS: now, VmHWM: at most until now."""
    return int(re.search(rf"{which}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024


def main() -> None:
    task = json.loads(sys.stdin.read())
    from scratchpatch import compilation_cache
    from scratchpatch import config as config_lib

    config = config_lib.from_flat(task["config"])
    # Both sides import all that theirs needs, and start its threads, before the count begins.
    if task["side"] == "blt":
        from scratchpatch.bench import blt
    compilation_cache.enable()
    import jax

    from scratchpatch.bench.subject import Subject
    from scratchpatch.data.batches import Batches

    jax.devices()
    tokens_BM = Batches(config).batch(0)
    before = _resident("VmRSS")
    if task["side"] == "blt":
        step = blt.Blt(config, task["patch_bytes"], task["parameters"], tokens_BM)
    else:
        step = Subject(config)
    for _ in range(_STEPS):
        step()
    print(json.dumps({"peak_megabytes": (_resident("VmHWM") - before) / 1e6}))


if __name__ == "__main__":
    main()
