"""The train step against transformers' BLT: equal parameters, equal bytes, no more trunk calls than ours."""

import importlib.util
import json
import os
import subprocess
import sys

from scratchpatch import config as config_lib, timing
from scratchpatch.bench.results import Result, at_least, at_most
from scratchpatch.bench.train import Subject
from scratchpatch.data.batches import Batches
from scratchpatch.errors import UserError

_TITLE = "the train step against transformers' BLT on torch, equal parameters and bytes"
_SECONDS = 20.0


def measure(config) -> Result:
    """Bytes/s and peak memory of the config's model and of its patches alone, each beside a BLT."""
    missing = [name for name in ("torch", "transformers") if importlib.util.find_spec(name) is None]
    if missing:
        fix = "pip install torch==2.13.0, then pip install transformers"
        return Result(_TITLE, skipped=f"{' and '.join(missing)} not installed: {fix}")
    from scratchpatch.bench import blt

    numbers, targets = {}, []
    for name, ours in {"scratchpads": config, "patches alone": patches_alone(config)}.items():
        subject, batch, patch_bytes = Subject(ours), Batches(ours).batch(0), blt.patch_bytes(ours)
        accumulation = ours.training.accumulation
        parts = {"blt": 1} | ({"blt in parts": accumulation} if accumulation > 1 else {})
        steps = {side: blt.Blt(ours, patch_bytes, subject.parameters, batch, count) for side, count in parts.items()}
        steps, parts = {"ours": subject} | steps, {"ours": accumulation} | parts
        times, memory = timing.take_turns(steps, _SECONDS), {}
        for side, step in steps.items():
            arguments = None if side == "ours" else [patch_bytes, subject.parameters, parts[side]]
            memory[side] = peak_memory(side, ours, arguments)
            numbers[f"{name}, {side}"] = {
                "bytes_per_second": step.bytes / times.best(side), "parameters": step.parameters,
                "trunk_slots_per_byte": step.trunk_calls_per_byte, "parts": parts[side], **memory[side],
            }
        targets.append(at_least(f"{name}: speed over BLT's", times.best("blt") / times.best("ours"), 1.0))
        share = memory["ours"]["step_memory_megabytes"] / memory["blt"]["step_memory_megabytes"]
        targets.append(at_most(f"{name}: memory of a step over BLT's", share, 0.5))
    notes = (
        f"{config.training.batch_rows} rows of {config.data.window} bytes; "
        "forward, backward, clipping and AdamW in float32",
        "parts: of the rows, one after the other (training.accumulation); "
        "the targets are against BLT's whole batch at once",
        "BLT takes as many bytes per trunk call as ours has per slot of its static arrays, rounded up",
        "speeds are those of the fastest turn: whatever else runs slows torch's waiting threads many times over",
        "step memory: parameters, moments and what a step adds to the resident memory at its peak, "
        "in a process of its own",
        "process: growth of resident memory since the imports, compiling or loading the compiled step included",
    )
    return Result(_TITLE, numbers, tuple(targets), notes)


def patches_alone(config):
    """The same model without scratchpads, and without the entropy head that only they read."""
    config = config_lib.from_flat(config_lib.flat(config) | {"trigger.kind": "none"})
    if not config_lib.reads_entropy(config):
        config.model.entropy_head.weight = 0.0
    return config


def peak_memory(side: str, config, blt: list[int] | None) -> dict[str, float]:
    """Resident memory of one side's steps and of its whole process since the imports, in MB: what `peak` prints. blt:
    bytes per patch, parameters and parts of a BLT; None: the step is ours. Raises UserError where it fails.
    """
    task = json.dumps({"config": config_lib.flat(config), "blt": blt})
    # Large blocks go back to the system when freed: what is resident is what is in use.
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    command = [sys.executable, "-m", "scratchpatch.bench.peak"]
    child = subprocess.run(command, input=task, env=environment, capture_output=True, text=True, check=False)
    if child.returncode:
        last = (child.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise UserError(f"the process that measures {side} stopped with {child.returncode}: {last}")
    return json.loads(child.stdout.splitlines()[-1])
