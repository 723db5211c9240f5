"""What is wrong, or dear, about the layout of a planned step: each fault in words, with the fix."""

import jax.numpy as jnp

from scratchpatch import config as config_lib
from scratchpatch.accounting.chips import GIB
from scratchpatch.accounting.parameters import parameters
from scratchpatch.model import weights as weights_lib
from scratchpatch.output import quantity
from scratchpatch.planning.hlo import Collective
from scratchpatch.planning.step_cost import StepCost

# Above these, a layout moves more than it must: weights gathered for the forward pass and again for the backward pass,
# gradients scattered or reduced once.
_GATHERED, _REDUCED, _PADDING = 2.1, 1.1, 0.15
# So many bytes a collective over rows may carry beside parameters: sums and counts.
_FEW_BYTES = 1 << 20
_GRADIENT_AXES = {"slice", "data", "fsdp"}


def layout_warnings(config, parts: int, cost: StepCost, collectives: list[Collective], plan: dict) -> list[str]:
    """The faults of a layout (a config whose mesh is settled); none where it is sound. collectives: none where nothing
    was compiled. plan: the fields of `plan.plan_tpu` so far.
    """
    weights, gradients = weight_bytes(config), gradient_bytes(config)
    total, limit, seconds = plan["bytes_per_chip"]["total"], plan["hbm_bytes"], plan["seconds"]
    work = seconds["compute"] + seconds["memory"]
    gathered = _sent(collectives, {"all-gather"}, _GRADIENT_AXES) / parts
    # In units of scattering a whole gradient once; an all-reduce sends it twice.
    reduced = _sent(collectives, {"reduce-scatter", "all-reduce"}, {"fsdp"}) / parts
    resharded = sum(c.kind.endswith("all-to-all") for c in collectives)
    hidden = collectives and config.mesh.fsdp > 1 and sum(c.bytes * c.times for c in collectives) < weights / 2
    moved = {
        f"does not fit: {total / GIB:.2f} of {limit / GIB:.2f} GiB; "
        "raise mesh.fsdp or training.accumulation, or set training.remat = 'full'": not plan["fits"],
        f"all-gathers carry {gathered / weights:.1f}x the weights per part, above {_GATHERED}: "
        "an activation loses its place (sharding.py)": gathered > _GATHERED * weights,
        f"reduce-scatters and all-reduces over fsdp carry {reduced / gradients:.1f}x the gradients per part, "
        f"above {_REDUCED}: XLA reduces where it could scatter; another mesh.fsdp (8 to 32, never all chips) may "
        "help": reduced > _REDUCED * gradients,
        "the program hides its collectives (they are offloaded on this chip): "
        "bytes sent and network time are too low": hidden,
        f"{resharded} all-to-alls: something is resharded (sharding.py)": resharded,
    }
    wasted = {
        f"padding: {cost.padding:.0%} of the trunk's slots stay empty, above {_PADDING:.0%}; "
        "lower trigger.capacity or patching.capacity": cost.padding > _PADDING,
        f"too few bytes per chip for FSDP to hide: {seconds['ici']:.3f} s of network beside {work:.3f} s of work; "
        "raise training.batch_rows or lower mesh.fsdp": seconds["ici"] > work,
        "the network between slices takes longer than the work: raise training.batch_rows": seconds["dcn"] > work,
    }
    before, after = ([words for words, wrong in faults.items() if wrong] for faults in (moved, wasted))
    return before + _strays(config, collectives) + after


def weight_bytes(config) -> int:
    """Bytes of all parameters in the type that the step computes in."""
    return sum(parameters(config).values()) * jnp.dtype(config.training.dtype).itemsize


def gradient_bytes(config) -> int:
    """Bytes of the gradients of all learned parameters in the type that they are summed in."""
    learned = sum(size for tier, size in parameters(config).items() if tier != "entropy model")
    return learned * jnp.dtype(config.training.gradient_dtype).itemsize


def _sent(collectives: list[Collective], kinds: set[str], axes: set[str]) -> float:
    """Bytes that collectives of these kinds over any of these axes send per chip and step."""
    return sum(c.bytes * c.times for c in collectives if c.kind in kinds and axes & set(c.axes.split("+")))


def _strays(config, collectives: list[Collective]) -> list[str]:
    """Collectives over rows that carry rows, positions or slots, which never need to leave their chip."""
    length, (commits, scratchpads) = config.data.window, config_lib.slots(config)
    slots = commits + scratchpads
    widths = {n for shape in weights_lib.shapes(weights_lib.abstract(config)[1]).values() for n in shape}
    widths |= {n // config.mesh.fsdp for n in widths}
    batch_sizes = {length, length + 1, slots, slots + 1, commits} - widths
    faults = []
    for c in collectives:
        strays = [shape for shape in c.shapes if set(shape) & batch_sizes]
        if strays and set(c.axes.split("+")) <= _GRADIENT_AXES and c.bytes * c.times > _FEW_BYTES:
            shape, place = "x".join(map(str, strays[0])), c.operation.split("/", 1)[-1][-80:]
            sent = f"{quantity(c.bytes * c.times)}B per step"
            faults.append(f"{c.kind} over {c.axes} carries {shape}, a batch's axes, {sent} ({place})")
    return faults
