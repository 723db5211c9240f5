"""Whether decoding fits a pod, what one byte of each row moves, and how long it should take (README.md)."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import logging

from scratchpatch import config as config_lib, precision, schema
from scratchpatch.accounting import account
from scratchpatch.accounting.chips import GIB, Chip
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.output import quantity
from scratchpatch.planning import ahead_of_time
from scratchpatch.planning.step_cost import ATTAINABLE
from scratchpatch.planning.topology import Topology

_CHILD = "scratchpatch.planning.decode_programs"


def plan_decode(config, pod: Topology, rows_per_chip: int) -> dict:
    """The plan of decoding so many rows per chip, whose windows are full, on a TPU pod.

    A mesh.sequence is taken as 1: a byte has no positions to spread. Returns a dict: topology, slices, chips, mesh,
    rows_per_chip, fits, bytes_per_chip {parameters, trunk_cache, rings, board, temporaries, total}, hbm_bytes,
    programs {bytes: one byte of each row, trunk: one call of the trunk for all of them, none without a trunk}, each
    {traffic, flops, temporaries, collectives, seconds}: bytes of main memory and of networks per chip;
    trunk_calls_per_byte; and, for the trunk called as seldom as its rows allow ('full'), and as soon as one row needs
    it ('eager'): calls_per_byte, traffic_per_byte, seconds_per_byte and bytes_per_second of text per chip;
    compile_seconds. Raises UserError where libtpu is missing, the config does not fit the pod's devices, or XLA
    refuses a program.
    """
    if config.data.tokenizer:
        raise UserError("the plan of decoding counts bytes, and data.tokenizer makes this a model of tokens")
    rows = rows_per_chip * pod.chips
    fields = {"mesh.slice": pod.slices, "mesh.sequence": 1, "training.batch_rows": rows, "training.accumulation": 1}
    config = config_lib.from_flat(config_lib.flat(config) | fields)
    config_lib.check(config)
    sizes = mesh_lib.sizes(config, pod.devices)
    compiled, seconds = _compile(config, pod, rows)
    programs = {
        name: program | {"seconds": _seconds(config, program, pod.chip)}
        for name, program in compiled["programs"].items()
    }
    held = compiled["held"] | {"temporaries": max(program["temporaries"] for program in programs.values())}
    held["total"] = sum(held.values())
    rate = sum(account.rates(config))
    plan = {
        "topology": pod.name, "slices": pod.slices, "chips": pod.chips, "mesh": sizes, "rows_per_chip": rows_per_chip,
        "fits": held["total"] <= pod.chip.memory, "bytes_per_chip": held, "hbm_bytes": int(pod.chip.memory),
        "programs": programs, "trunk_calls_per_byte": rate,
    }
    # All rows of the pod share one loop, and the trunk is called for all of them.
    eager = 1 - (1 - min(rate, 1.0)) ** rows
    plan |= {"full": _per_byte(programs, rate, rows_per_chip), "eager": _per_byte(programs, eager, rows_per_chip)}
    return plan | {"compile_seconds": round(seconds, 1)}


def _compile(config, pod: Topology, rows: int) -> tuple[dict, float]:
    """(what the child says, the seconds that it took)."""
    if not ahead_of_time.available():
        raise UserError(ahead_of_time.MISSING)
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="scratchpatch-plan-") as name:
        experiment, result = Path(name) / "config.json", Path(name) / "result.json"
        experiment.write_text(json.dumps({"schema": schema.CURRENT, "config": config_lib.flat(config)}))
        arguments = [str(experiment), pod.name, str(pod.slices), str(rows), str(result)]
        logging.info("compiling the programs of decoding for %s, which takes a minute or two for 1B parameters", pod)
        child = subprocess.run(
            [sys.executable, "-m", _CHILD, *arguments],
            env=os.environ | ahead_of_time.ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        if not result.exists():
            raise UserError(ahead_of_time.complaint(child.stdout, pod))
        return json.loads(result.read_text()), time.monotonic() - began


def _seconds(config, program: dict, chip: Chip) -> float:
    """By our roofline: products run while memory is read, and collectives after what they wait for."""
    flops = program["flops"] * precision.times_of_bfloat16(config.training.dtype, chip.kind)
    sent = sum(size for by_axes in program["collectives"].values() for size in by_axes.values())
    between = sum(
        size
        for by_axes in program["collectives"].values()
        for axes, size in by_axes.items()
        if "slice" in axes.split("+")
    )
    work = max(flops / chip.flops, program["traffic"] / chip.bandwidth)
    return (work + (sent - between) / chip.ici + between / chip.dcn) / ATTAINABLE


def _per_byte(programs: dict, calls: float, rows_per_chip: int) -> dict:
    """Of one byte of each row, for which the trunk is called so often."""

    def total(field: str) -> float:
        return programs["bytes"][field] + (calls * programs["trunk"][field] if "trunk" in programs else 0.0)

    return {
        "calls_per_byte": calls,
        "traffic_per_byte": total("traffic"),
        "seconds_per_byte": total("seconds"),
        "bytes_per_second": rows_per_chip / total("seconds"),
    }


def text(plan: dict) -> str:
    """A plan as people read it."""
    held = plan["bytes_per_chip"]
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan["mesh"].items() if size > 1) or "one device"
    slices = f" x {plan['slices']} slices" if plan["slices"] > 1 else ""
    kinds = ", ".join(
        f"{kind.replace('_', ' ')} {size / GIB:.2f}" for kind, size in held.items() if kind != "total"
    )
    lines = [
        f"{plan['topology']}{slices}: {plan['chips']} chips, {mesh}, {plan['rows_per_chip']} rows per chip",
        f"{'fits' if plan['fits'] else 'DOES NOT FIT'}: {held['total'] / GIB:.2f} of {plan['hbm_bytes'] / GIB:.2f} GiB "
        f"per chip ({kinds})",
        f"{'per chip':<34}{'memory traffic':>15}{'FLOPs':>10}{'sent':>10}{'roofline':>12}",
    ]
    for name, what in (("bytes", "one byte of each row"), ("trunk", "one call of the trunk for all")):
        if program := plan["programs"].get(name):
            sent = sum(size for by_axes in program["collectives"].values() for size in by_axes.values())
            traffic, flops, sent = (quantity(x) for x in (program["traffic"], program["flops"], sent))
            lines.append(f"{what:<34}{traffic + 'B':>15}{flops:>10}{sent + 'B':>10}{program['seconds'] * 1e3:>9.3f} ms")
    for name, what in (("full", "rows wait for each other"), ("eager", "no row waits")):
        way = plan[name]
        lines.append(
            f"{what}: {way['calls_per_byte']:.3f} trunk calls, {quantity(way['traffic_per_byte'])}B of memory traffic "
            f"and {way['seconds_per_byte'] * 1e3:.3f} ms per byte of each row: "
            f"{quantity(way['bytes_per_second'])}B of text per second and chip"
        )
    return "\n".join(lines)
