"""Whether a train step fits a pod, what it sends and how long it should take, before a chip is rented (README.md)."""

import math

from jax.sharding import AbstractMesh

from scratchpatch import config as config_lib, precision
from scratchpatch.accounting.chips import GIB, Chip
from scratchpatch.config_fields import REMAT
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.kernels import attention
from scratchpatch.kernels.cost import Pass
from scratchpatch.output import quantity
from scratchpatch.planning import ahead_of_time, hlo, topology
from scratchpatch.planning.layout_warnings import gradient_bytes, layout_warnings, weight_bytes
from scratchpatch.planning.step_cost import ATTAINABLE, StepCost, step_cost, with_remat
from scratchpatch.planning.topology import Topology

# A guess at a smaller pod leaves so much of its memory free; so many guesses are compiled.
_ROOM, _TRIES = 0.95, 3


def plan_tpu(config, pod: Topology, full: bool = False, smallest: bool = True, policies: bool = True) -> dict:
    """The plan of a config on a TPU pod, to whose slices mesh.slice is set.

    full: compile to the end, machine code included. smallest: look for the smallest pod of the kind that fits, by
    compiling for it. policies: estimate the other policies of training.remat too. Returns a dict: topology, slices,
    chips, mesh, parts, fits, bytes_per_chip {parameters, optimizer, activations, temporaries, total}, hbm_bytes,
    flops_per_chip, useful_flops_per_chip, collectives {kind: {axes: bytes}}, collective_bytes_per_chip, seconds
    {compute, memory, ici, dcn, host}, seconds_estimate, bound_by, mfu_estimate, bytes_per_second (tokens_per_second of
    a model of tokens), padding, warnings, remat {policy: {total, fits, seconds, mfu}}, smallest_topology,
    compile_seconds. Bytes of collectives are those that one chip sends in one step. Raises UserError as
    `ahead_of_time.compile_step` does.
    """
    config = config_lib.from_flat(config_lib.flat(config) | {"mesh.slice": pod.slices})
    config_lib.check(config)
    compiled = ahead_of_time.compile_step(config, pod, full)
    settled, parts = _settled(config, pod.devices)
    cost = _cost(settled, parts, "tpu")
    memory = hlo.memory(compiled.assignment)
    total = sum(memory.values())
    held = {
        "parameters": cost.parameters, "optimizer": cost.optimizer,
        "activations": min(cost.activations, memory["temporary"]),
        "temporaries": max(total - cost.parameters - cost.optimizer - cost.activations, 0), "total": total,
    }
    where = {"topology": pod.name, "slices": pod.slices, "chips": pod.chips}
    collectives = hlo.collectives(compiled.program, _mesh(settled))
    plan = where | _plan(settled, parts, cost, held, pod.chip, hlo.totals(collectives), collectives)
    return plan | {
        "remat": _policies(settled, parts, pod.chip, plan, cost, "tpu") if policies else {},
        "smallest_topology": _smallest(settled, pod, plan) if smallest else None,
        "compile_seconds": round(compiled.seconds, 1),
    }


def plan_device(config, chip: Chip, count: int, policies: bool = True) -> dict:
    """An estimate for `count` devices without compiling: the fields of `plan_tpu` that arithmetic gives."""
    config, parts = _settled(config, count)
    cost = _cost(config, parts, "gpu")
    held = {name: getattr(cost, name) for name in ("parameters", "optimizer", "activations")}
    held["temporaries"] = cost.workspace
    mesh, gradients = config.mesh, gradient_bytes(config)
    share, copies = 1 - 1 / mesh.fsdp, mesh.slice * mesh.data
    passes = 2 if config.training.remat != "none" else 1
    totals: dict[str, dict[str, float]] = {}
    if mesh.fsdp > 1:
        totals["all-gather"] = {"fsdp": weight_bytes(config) * passes * parts * share}
        totals["reduce-scatter"] = {"fsdp": gradients * parts * share}
    if copies > 1:
        totals["all-reduce"] = {"data": 2 * gradients / mesh.fsdp * (1 - 1 / copies)}
    where = {"topology": f"{chip.name} x {count}", "slices": mesh.slice, "chips": count}
    plan = where | _plan(config, parts, cost, held | {"total": sum(held.values())}, chip, totals, [])
    policies = _policies(config, parts, chip, plan, cost, "gpu") if policies else {}
    return plan | {"remat": policies, "smallest_topology": None, "compile_seconds": 0.0}


def _settled(config, devices: int):
    """(the config whose mesh is settled for so many devices, parts that a step's rows are computed in)."""
    sizes = mesh_lib.sizes(config, devices)
    mesh = AbstractMesh(tuple(sizes.values()), tuple(sizes))
    return mesh_lib.settled(config, mesh), mesh_lib.parts(config, mesh)


def _mesh(config) -> dict[str, int]:
    return {axis: config.mesh[axis] for axis in mesh_lib.AXES}


def _cost(config, parts: int, platform: str) -> StepCost:
    with attention.platform(platform):
        return step_cost(config, parts)


def _plan(config, parts: int, cost: StepCost, held: dict, chip: Chip, totals: dict, collectives: list) -> dict:
    """The fields that both kinds of plan have; totals: of the collectives, as `hlo.totals` gives them."""
    plan = {
        "mesh": _mesh(config), "parts": parts, "fits": held["total"] <= chip.memory, "bytes_per_chip": held,
        "hbm_bytes": int(chip.memory), **_timing(config, cost, chip, totals),
    }
    return plan | {"warnings": layout_warnings(config, parts, cost, collectives, plan)}


def _timing(config, cost: StepCost, chip: Chip, totals: dict) -> dict:
    sent = [(axes.split("+"), size) for by_axes in totals.values() for axes, size in by_axes.items()]
    everywhere = sum(size for _, size in sent)
    between_slices = sum(size for axes, size in sent if "slice" in axes)
    times = precision.times_of_bfloat16(config.training.dtype, chip.kind)
    outside = cost.flops - sum(x.flops for x in cost.kernels)
    seconds = {
        "compute": outside * times / (chip.flops * ATTAINABLE)
        + sum(kernel_seconds(x, chip, times) for x in cost.kernels),
        "memory": cost.traffic / (chip.bandwidth * ATTAINABLE),
        "ici": (everywhere - between_slices) / (chip.ici * ATTAINABLE), "dcn": between_slices / (chip.dcn * ATTAINABLE),
        "host": cost.offloaded / (chip.host * ATTAINABLE) if chip.host else 0.0,
    }
    work = seconds["compute"] + seconds["memory"]
    beside = {name: seconds[name] for name in ("ici", "dcn", "host")}
    step = max(work, *beside.values())
    bound = {work: max("compute", "memory", key=seconds.get)} | {x: name for name, x in beside.items() if x > work}
    return {
        "flops_per_chip": cost.flops, "useful_flops_per_chip": cost.useful, "collectives": totals,
        "collective_bytes_per_chip": everywhere, "seconds": seconds, "seconds_estimate": step, "bound_by": bound[step],
        "mfu_estimate": cost.useful / (step * chip.flops),
        f"{config_lib.vocabulary(config).unit}s_per_second": config.training.batch_rows * config.data.window / step,
        "padding": cost.padding,
    }


def kernel_seconds(x: Pass, chip: Chip, times: float = 1.0) -> float:
    """The time of an attention kernel's pass. Its products run while it asks for memory, and its exponentials, where
    the maker says how fast they are, before and after them. times: of bfloat16's, for products of its type.
    """
    busy = max(x.flops * times / chip.flops, x.moved / chip.bandwidth)
    return (busy + (x.exponentials / chip.exponentials if chip.exponentials else 0.0)) / ATTAINABLE


def _policies(config, parts: int, chip: Chip, planned: dict, cost: StepCost, platform: str) -> dict[str, dict]:
    """What the step would hold and take under each policy of training.remat. Memory is that of the plan, but for the
    difference of what is kept; what is sent is that of the plan. A time is None where the link to the host is unknown.
    """
    policies = {}
    for remat in REMAT:
        other = with_remat(config, remat)
        changed = cost if remat == config.training.remat else _cost(other, parts, platform)
        total = planned["bytes_per_chip"]["total"] + changed.activations - cost.activations
        timing = _timing(other, changed, chip, planned["collectives"])
        known = chip.host > 0 or not changed.offloaded
        policies[remat] = {
            "total": total, "fits": total <= chip.memory, "seconds": timing["seconds_estimate"] if known else None,
            "mfu": timing["mfu_estimate"] if known else None,
        }
    return policies


def fastest(policies: dict[str, dict]) -> str | None:
    """The fastest policy that fits, and of equal ones that which holds least; None: none fits."""
    fitting = [name for name, x in policies.items() if x["fits"] and x["seconds"] is not None]
    return min(fitting, key=lambda name: (policies[name]["seconds"], policies[name]["total"]), default=None)


def _smallest(config, pod: Topology, plan: dict) -> str | None:
    """The smallest pod of the kind that holds the step, its rows in more parts where chips are fewer; None: none found.
    Memory per chip is guessed from that of the plan; what the guess lets pass is compiled, a few at most.
    """
    held, rows = plan["bytes_per_chip"], config.training.batch_rows
    state = held["parameters"] + held["optimizer"]
    rows_of_part = rows / (pod.devices * plan["parts"])
    tries = _TRIES
    for candidate in topology.pods(pod.kind):
        if candidate.chips >= pod.chips and plan["fits"]:
            return str(pod)
        width = min(config.mesh.fsdp, candidate.devices // (config.mesh.tensor * config.mesh.sequence))
        if width < 1 or rows % candidate.devices or not tries:
            continue
        rows_here = rows // candidate.devices
        parts = min(max(math.ceil(rows / candidate.devices / rows_of_part), config.training.accumulation), rows_here)
        rest = (held["total"] - state) * rows / (candidate.devices * parts) / rows_of_part
        if state * config.mesh.fsdp / width + rest > candidate.chip.memory * _ROOM:
            continue
        tried = {"mesh.slice": 1, "mesh.data": -1, "mesh.fsdp": width, "training.accumulation": math.gcd(rows, parts)}
        tries -= 1
        try:
            smaller = config_lib.from_flat(config_lib.flat(config) | tried)
            compiled = ahead_of_time.compile_step(smaller, candidate)
        except UserError:
            continue
        if sum(hlo.memory(compiled.assignment).values()) <= candidate.chip.memory:
            return candidate.name
    return str(pod) if plan["fits"] else None


def text(plan: dict) -> str:
    """A plan as people read it."""
    held, seconds = plan["bytes_per_chip"], plan["seconds"]
    mesh = " x ".join(f"{axis} {size}" for axis, size in plan["mesh"].items() if size > 1) or "one device"
    slices = f" x {plan['slices']} slices" if plan["slices"] > 1 else ""
    parts = f", rows in {plan['parts']} parts" if plan["parts"] > 1 else ""
    kinds = ", ".join(f"{kind} {size / GIB:.2f}" for kind, size in held.items() if kind != "total")
    text_per_second = f"{quantity(plan.get('tokens_per_second', 0))} tokens"
    if "bytes_per_second" in plan:
        text_per_second = f"{quantity(plan['bytes_per_second'])}B"
    host = f", to the host {seconds['host']:.3f}" if seconds["host"] else ""
    lines = [
        f"{plan['topology']}{slices}: {plan['chips']} chips, {mesh}{parts}",
        f"{'fits' if plan['fits'] else 'DOES NOT FIT'}: {held['total'] / GIB:.2f} of {plan['hbm_bytes'] / GIB:.2f} GiB "
        f"per chip ({kinds})",
        f"step {plan['seconds_estimate']:.3f} s by our roofline, bound by {plan['bound_by']} "
        f"(compute {seconds['compute']:.3f}, memory {seconds['memory']:.3f}, network {seconds['ici']:.3f}, "
        f"between slices {seconds['dcn']:.3f}{host})",
        f"{text_per_second} of text per second; {quantity(plan['flops_per_chip'])}FLOP per chip, "
        f"{quantity(plan['useful_flops_per_chip'])} of them useful: MFU {plan['mfu_estimate']:.0%}",
        f"a chip sends {quantity(plan['collective_bytes_per_chip'])}B per step",
    ]
    for kind, by_axes in plan["collectives"].items():
        lines += [f"  {kind:<20}{axes:<24}{quantity(size)}B" for axes, size in by_axes.items()]
    lines += [f"warning: {warning}" for warning in plan["warnings"]] or ["no warnings"]
    lines += _text_of_policies(plan["remat"]) if plan["remat"] else []
    if plan["smallest_topology"]:
        lines.append(f"smallest that fits: {plan['smallest_topology']}")
    elif plan["compile_seconds"] and not plan["fits"]:
        lines.append("no pod of this kind was found to fit with this mesh: raise mesh.fsdp")
    return "\n".join(lines)


def _text_of_policies(policies: dict[str, dict]) -> list[str]:
    lines = [f"{'training.remat':<16}{'GiB per chip':>14}{'step':>10}{'MFU':>6}"]
    for name, x in policies.items():
        time = f"{x['seconds']:>8.3f} s{x['mfu']:>6.0%}" if x["seconds"] is not None else f"{'unknown':>10}{'':>6}"
        lines.append(f"{name:<16}{x['total'] / GIB:>14.1f}{time}{'' if x['fits'] else '  does not fit'}")
    best = fastest(policies)
    return [*lines, f"fastest that fits: training.remat = {best!r}"] if best else lines
