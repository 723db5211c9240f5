"""The train step against transformers' BLT: equal parameters, equal bytes, no more trunk calls than ours."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

from scratchpatch import config as config_lib
from scratchpatch.bench import timing
from scratchpatch.bench.results import Result, at_least, at_most
from scratchpatch.bench.subject import Subject
from scratchpatch.data.batches import Batches
from scratchpatch.errors import UserError

_TITLE = "the train step against transformers' BLT on torch, equal parameters and bytes"
_SECONDS = 20.0


def measure(config) -> Result:
    """Bytes/s and peak memory of the config's model and of its patches alone, each beside a BLT.

    Skipped where torch or transformers is missing.
    """
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        fix = "pip install torch==2.13.0, then pip install transformers"
        return Result(_TITLE, skipped=f"{' and '.join(missing)} not installed: {fix}")
    from scratchpatch.bench import blt

    numbers, targets = {}, []
    for name, ours in {"scratchpads": config, "patches alone": plain(config)}.items():
        subject = Subject(ours)
        bytes_per_call = blt.patch_bytes(ours)
        peer = blt.Blt(ours, bytes_per_call, subject.parameters, Batches(ours).batch(0))
        times = timing.take_turns({"ours": subject, "blt": peer}, _SECONDS)
        memory = {side: peak_memory(side, ours, bytes_per_call, subject.parameters) for side in ("ours", "blt")}
        for side, x, calls in (
            ("ours", subject, sum(config_lib.slots(ours)) / ours.data.window),
            ("blt", peer, peer.trunk_calls_per_byte),
        ):
            numbers[f"{name}, {side}"] = {
                "bytes_per_second": x.bytes / times.median(side),
                "parameters": x.parameters,
                "trunk_slots_per_byte": calls,
                **memory[side],
            }
        targets.append(at_least(f"{name}: speed over BLT's", times.ratio("blt", "ours"), 1.0))
        share = memory["ours"]["peak_megabytes"] / memory["blt"]["peak_megabytes"]
        targets.append(at_most(f"{name}: peak memory over BLT's", share, 0.5))
    return Result(
        _TITLE,
        numbers,
        tuple(targets),
        (
            f"{config.training.batch_rows} rows of {config.data.window} bytes; forward, backward, clipping and AdamW in float32",
            "BLT takes as many bytes per trunk call as ours has per slot of its static arrays, rounded up",
            "peak: growth of resident memory from after the imports, in a process of its own; loading or compiling included",
        ),
    )


def plain(config):
    """The same model without scratchpads, and without the entropy head that only they read."""
    config = config_lib.from_flat(config_lib.flat(config))
    config.trigger.kind = "none"
    if not config_lib.reads_entropy(config):
        config.model.entropy_head.weight = 0.0
    return config


def peak_memory(side: str, config, patch_bytes: int, parameters: int) -> dict[str, float]:
    """Growth of resident memory over a few steps of one side, in MB, in a process of its own.

    Raises:
        UserError: the process failed; its last line.
    """
    task = json.dumps({"side": side, "config": config_lib.flat(config), "patch_bytes": patch_bytes, "parameters": parameters})
    child = subprocess.run(
        [sys.executable, "-m", "scratchpatch.bench.peak"], input=task, capture_output=True, text=True, check=False
    )
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise UserError(f"the process that measures {side} stopped with {child.returncode}: {last}")
    return json.loads(child.stdout.splitlines()[-1])
