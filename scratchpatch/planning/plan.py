"""Whether a train step fits a pod, what it communicates and how long it should take, before a chip is rented.

Memory, shapes and collectives are XLA's own, of the real step compiled for the
real pod. Time is an estimate: XLA's would be nonsense. A chip's matrix products
and memory traffic are taken one after the other, its networks beside them, each
at the share of the data sheet that `step_cost.ATTAINABLE` names.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
from jax.sharding import AbstractMesh

from scratchpatch import config as config_lib
from scratchpatch import precision
from scratchpatch.accounting import chips as chips_lib
from scratchpatch.accounting.parameters import parameters
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.kernels import attention
from scratchpatch.model import weights as weights_lib
from scratchpatch.output import quantity
from scratchpatch.planning import ahead_of_time, hlo, topology
from scratchpatch.planning.step_cost import ATTAINABLE, StepCost, step_cost
from scratchpatch.planning.topology import Topology

# Above these, a layout moves more than it must: weights gathered for the forward
# pass and again for the backward pass, gradients scattered or reduced once.
_GATHERED, _REDUCED, _PADDING = 2.1, 1.1, 0.15
# What a collective over rows may carry beside parameters: sums and counts.
_SMALL = 1 << 20
_GRADIENT_AXES = {"slice", "data", "fsdp"}
# A guess at another pod leaves so much of its memory free; so many guesses are compiled.
_ROOM, _TRIES = 0.95, 3


def plan_tpu(config, pod: Topology, whole: bool = False, smallest: bool = True, progress: Callable[[str], None] = lambda _: None) -> dict:
    """The plan of a config on a TPU pod.

    Args:
      config: the experiment; mesh.slice is set to the pod's slices.
      pod: where it is to run.
      whole: compile to the end, machine code included.
      smallest: look for the smallest pod of the kind that fits, by compiling for it.
      progress: called with a line now and then.
    Returns:
      A dict: topology, slices, chips, mesh, parts, fits, bytes_per_chip {parameters,
      optimizer, activations, temporaries, total}, hbm_bytes, flops_per_chip,
      useful_flops_per_chip, collectives {kind: {axes: bytes}},
      collective_bytes_per_chip, seconds {compute, memory, ici, dcn},
      seconds_estimate, bound_by, mfu_estimate, bytes_per_second, padding,
      warnings, smallest_topology, compile_seconds. Bytes of collectives are sent by one
      chip in one step.
    Raises:
      UserError: see `ahead_of_time.compile_step`.
    """
    config = _on(config, pod)
    compiled = ahead_of_time.compile_step(config, pod, whole, progress)
    for axis, size in compiled.mesh.items():
        config.mesh[axis] = size
    cost = _cost(config, compiled.mesh, compiled.parts, "tpu")
    held = hlo.memory(compiled.assignment)
    found = hlo.collectives(compiled.program, compiled.mesh)
    total = sum(held.values())
    result = {
        "topology": pod.name,
        "slices": pod.slices,
        "chips": pod.chips,
        "mesh": compiled.mesh,
        "parts": compiled.parts,
        "fits": total <= pod.chip.memory,
        "bytes_per_chip": {
            "parameters": cost.parameters,
            "optimizer": cost.optimizer,
            "activations": min(cost.activations, held["temporary"]),
            "temporaries": max(total - cost.parameters - cost.optimizer - cost.activations, 0),
            "total": total,
        },
        "hbm_bytes": int(pod.chip.memory),
    }
    totals = hlo.totals(found)
    result |= _timing(config, cost, pod.chip, pod.devices, totals)
    result["warnings"] = warnings(config, compiled.mesh, compiled.parts, cost, found, result)
    result["smallest_topology"] = _smallest(config, pod, result, progress) if smallest else None
    return result | {"compile_seconds": round(compiled.seconds, 1)}


def plan_device(config, chip: chips_lib.Chip, count: int) -> dict:
    """An estimate for `count` devices without compiling: the fields of `plan_tpu` that arithmetic gives."""
    mesh = mesh_lib.sizes(config, count)
    described = AbstractMesh(tuple(mesh.values()), tuple(mesh))
    config, parts = mesh_lib.settled(config, described), mesh_lib.parts(config, described)
    cost = _cost(config, mesh, parts, "gpu")
    held = {"parameters": cost.parameters, "optimizer": cost.optimizer, "activations": cost.activations, "temporaries": cost.workspace}
    weights, gradients, share = _weights(config), _gradients(config), 1 - 1 / mesh["fsdp"]
    passes = 2 if config.training.remat != "none" else 1
    totals: dict[str, dict[str, float]] = {}
    if mesh["fsdp"] > 1:
        totals["all-gather"] = {"fsdp": weights * passes * parts * share}
        totals["reduce-scatter"] = {"fsdp": gradients * parts * share}
    copies = mesh["slice"] * mesh["data"]
    if copies > 1:
        totals["all-reduce"] = {"data": 2 * gradients / mesh["fsdp"] * (1 - 1 / copies)}
    result = {
        "topology": f"{chip.name} x {count}",
        "slices": mesh["slice"],
        "chips": count,
        "mesh": mesh,
        "parts": parts,
        "fits": sum(held.values()) <= chip.memory,
        "bytes_per_chip": held | {"total": sum(held.values())},
        "hbm_bytes": int(chip.memory),
    }
    result |= _timing(config, cost, chip, count, totals)
    result["warnings"] = warnings(config, mesh, parts, cost, [], result)
    return result | {"smallest_topology": None, "compile_seconds": 0.0}


def warnings(config, mesh: dict[str, int], parts: int, cost: StepCost, found: list[hlo.Collective], result: dict) -> list[str]:
    """What is wrong, or dear, about a layout, with the fix; empty where nothing is."""
    said = []
    total, limit = result["bytes_per_chip"]["total"], result["hbm_bytes"]
    if not result["fits"]:
        said.append(f"does not fit: {_gib(total)} of {_gib(limit)} GiB; raise mesh.fsdp or training.accumulation, or set training.remat = 'full'")
    weights = _weights(config)
    gathered = sum(c.bytes * c.times for c in found if c.kind == "all-gather" and set(c.axes.split("+")) & _GRADIENT_AXES) / parts
    if gathered > _GATHERED * weights:
        said.append(f"all-gathers carry {gathered / weights:.1f}x the weights per part, above {_GATHERED}: an activation loses its place (sharding.py)")
    # In units of scattering a whole gradient once; an all-reduce sends it twice.
    reduced = sum(c.bytes * c.times for c in found if c.kind in ("reduce-scatter", "all-reduce") and "fsdp" in c.axes.split("+")) / parts
    gradients = _gradients(config)
    if reduced > _REDUCED * gradients:
        said.append(
            f"reduce-scatters and all-reduces over fsdp carry {reduced / gradients:.1f}x the gradients per part, above {_REDUCED}: "
            "XLA reduces where it could scatter; another mesh.fsdp (8 to 32, never all chips) may help"
        )
    if found and mesh["fsdp"] > 1 and sum(c.bytes * c.times for c in found) < weights / 2:
        said.append("the program hides its collectives (they are offloaded on this chip): bytes sent and network time are too low")
    if any(c.kind in ("all-to-all", "ragged-all-to-all") for c in found):
        said.append(f"{sum(c.kind.endswith('all-to-all') for c in found)} all-to-alls: something is resharded (sharding.py)")
    said += _strays(config, mesh, parts, found)
    if cost.padding > _PADDING:
        said.append(f"padding: {cost.padding:.0%} of the trunk's slots stay empty, above {_PADDING:.0%}; lower trigger.capacity or patching.capacity")
    seconds = result["seconds"]
    if seconds["ici"] > seconds["compute"] + seconds["memory"]:
        said.append(
            f"too few bytes per chip for FSDP to hide: {seconds['ici']:.3f} s of network beside {seconds['compute'] + seconds['memory']:.3f} s of work; "
            "raise training.batch_rows or lower mesh.fsdp"
        )
    if seconds["dcn"] > seconds["compute"] + seconds["memory"]:
        said.append("the network between slices takes longer than the work: raise training.batch_rows")
    return said


def _strays(config, mesh, parts: int, found: list[hlo.Collective]) -> list[str]:
    """Collectives over rows that carry rows, positions or slots, which never need to leave their chip."""
    length, slots = config.data.window, sum(config_lib.slots(config))
    sizes = {length, length + 1, slots, slots + 1, config_lib.slots(config)[0]} - _parameter_sizes(config, mesh)
    said = []
    for c in found:
        if c.axes != "none" and set(c.axes.split("+")) <= _GRADIENT_AXES and c.bytes * c.times > _SMALL:
            carried = [shape for shape in c.shapes if set(shape) & sizes]
            if carried:
                where = c.operation.split("/", 1)[-1][-80:]
                said.append(f"{c.kind} over {c.axes} carries {'x'.join(map(str, carried[0]))}, a batch's axes, {quantity(c.bytes * c.times)}B per step ({where})")
    return said


def _parameter_sizes(config, mesh) -> set[int]:
    sizes = {n for shape in weights_lib.shapes(weights_lib.abstract(config)[1]).values() for n in shape}
    return sizes | {n // mesh["fsdp"] for n in sizes}


def _timing(config, cost: StepCost, chip: chips_lib.Chip, devices: int, totals) -> dict:
    between = sum(size for by_axes in totals.values() for axes, size in by_axes.items() if "slice" in axes.split("+"))
    everywhere = sum(size for by_axes in totals.values() for size in by_axes.values())
    seconds = {
        "compute": cost.flops * precision.times_of_bfloat16(config.training.dtype, chip.kind) / (chip.flops * ATTAINABLE),
        "memory": cost.traffic / (chip.bandwidth * ATTAINABLE),
        "ici": (everywhere - between) / (chip.ici * ATTAINABLE),
        "dcn": between / (chip.dcn * ATTAINABLE),
    }
    work = seconds["compute"] + seconds["memory"]
    step = max(work, seconds["ici"], seconds["dcn"])
    bound = {work: max("compute", "memory", key=seconds.get), seconds["ici"]: "ici", seconds["dcn"]: "dcn"}[step]
    return {
        "flops_per_chip": cost.flops,
        "useful_flops_per_chip": cost.useful,
        "collectives": totals,
        "collective_bytes_per_chip": everywhere,
        "seconds": seconds,
        "seconds_estimate": step,
        "bound_by": bound,
        "mfu_estimate": cost.useful / (step * chip.flops),
        "bytes_per_second": config.training.batch_rows * config.data.window / step,
        "padding": cost.padding,
    }


def _on(config, pod: Topology):
    """A copy of the config for a pod: its slices, and an axis that takes the devices that the others leave."""
    config = config_lib.from_flat(config_lib.flat(config))
    config.mesh.slice = pod.slices
    config_lib.check(config)
    return config


def _smallest(config, pod: Topology, result: dict, progress) -> str | None:
    """The smallest pod of the kind that holds the step, its rows in more parts where chips are fewer; None: none found.

    Memory per chip is guessed from that of the plan; what the guess lets pass is compiled, a few at most.
    """
    held, rows = result["bytes_per_chip"], config.training.batch_rows
    fixed = held["parameters"] + held["optimizer"]
    # Rows of a part on one device, whatever else changes.
    part = rows / (pod.devices * result["parts"])
    tries = _TRIES
    for candidate in topology.pods(pod.kind):
        if candidate.chips >= pod.chips and result["fits"]:
            return str(pod)
        width = min(config.mesh.fsdp, candidate.devices // (config.mesh.tensor * config.mesh.sequence))
        if width < 1 or rows % candidate.devices or not tries:
            continue
        parts = min(max(math.ceil(rows / candidate.devices / part), config.training.accumulation), rows // candidate.devices)
        moving = (held["total"] - fixed) * rows / (candidate.devices * parts) / part
        if fixed * config.mesh.fsdp / width + moving > candidate.chip.memory * _ROOM:
            continue
        tried = config_lib.from_flat(config_lib.flat(config))
        tried.mesh.slice, tried.mesh.data, tried.mesh.fsdp = 1, -1, width
        tried.training.accumulation = math.gcd(rows, parts)
        tries -= 1
        try:
            compiled = ahead_of_time.compile_step(tried, candidate, progress=progress)
        except UserError:
            continue
        if sum(hlo.memory(compiled.assignment).values()) <= candidate.chip.memory:
            return candidate.name
    return str(pod) if result["fits"] else None


def _cost(config, mesh: dict[str, int], parts: int, platform: str) -> StepCost:
    # On an accelerator attention runs in kernels, unless the config says otherwise.
    fused = "xla" not in (config.kernels.staircase, config.kernels.window)
    with attention.platform(platform):
        return step_cost(config, mesh, parts, fused)


def _weights(config) -> int:
    """Bytes of all parameters in the type that the step computes in."""
    return sum(parameters(config).values()) * jnp.dtype(config.training.dtype).itemsize


def _gradients(config) -> int:
    """Bytes of the gradients of all learned parameters in the type that they are summed in."""
    learned = sum(size for tier, size in parameters(config).items() if tier != "entropy model")
    return learned * jnp.dtype(config.training.gradient_dtype).itemsize


def _gib(size: float) -> str:
    return f"{size / chips_lib.GIB:.2f}"


def text(found: dict) -> str:
    """A plan as people read it."""
    held, seconds = found["bytes_per_chip"], found["seconds"]
    mesh = " x ".join(f"{axis} {size}" for axis, size in found["mesh"].items() if size > 1) or "one device"
    slices = f" x {found['slices']} slices" if found["slices"] > 1 else ""
    lines = [
        f"{found['topology']}{slices}: {found['chips']} chips, {mesh}"
        + (f", rows in {found['parts']} parts" if found["parts"] > 1 else ""),
        f"{'fits' if found['fits'] else 'DOES NOT FIT'}: {_gib(held['total'])} of {_gib(found['hbm_bytes'])} GiB per chip ("
        + ", ".join(f"{kind} {_gib(size)}" for kind, size in held.items() if kind != "total") + ")",
        f"step {found['seconds_estimate']:.3f} s by our roofline, bound by {found['bound_by']} "
        f"(compute {seconds['compute']:.3f}, memory {seconds['memory']:.3f}, network {seconds['ici']:.3f}, between slices {seconds['dcn']:.3f})",
        f"{quantity(found['bytes_per_second'])}B of text per second; {quantity(found['flops_per_chip'])}FLOP per chip, "
        f"{quantity(found['useful_flops_per_chip'])} of them useful: MFU {found['mfu_estimate']:.0%}",
        f"a chip sends {quantity(found['collective_bytes_per_chip'])}B per step",
    ]
    for kind, by_axes in found["collectives"].items():
        lines += [f"  {kind:<20}{axes:<24}{quantity(size)}B" for axes, size in by_axes.items()]
    lines += [f"warning: {warning}" for warning in found["warnings"]] or ["no warnings"]
    if found["compile_seconds"] and not found["fits"] and not found["smallest_topology"]:
        lines.append("no pod of this kind was found to fit with this mesh: raise mesh.fsdp")
    if found["smallest_topology"]:
        lines.append(f"smallest that fits: {found['smallest_topology']}")
    return "\n".join(lines)
