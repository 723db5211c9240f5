"""What known chips can do at best and how much they hold, from their makers' data sheets."""

import dataclasses

from scratchpatch.errors import UserError

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device of JAX. kind: part of its device_kind. flops: dense bf16 per second, without sparsity. memory: bytes
    that a program can have. bandwidth: bytes per second of its memory. ici: bytes per second that it sends along one
    ring of its own network (TPU: both directions of one axis; GPU: NVLink). dcn: between slices or nodes. host: bytes
    per second to and from its host's memory, each way; exponentials: per second; both 0 where the maker does not say.
    """

    name: str
    kind: str
    flops: float
    memory: float
    bandwidth: float
    ici: float
    dcn: float
    host: float = 0.0
    exponentials: float = 0.0


# A device_kind is looked up in this order. A TPU's memory is what XLA leaves to programs; a tpu7x chip is two devices.
# A GPU's multiprocessor has 16 exponentials per clock (3.9e12 per second on an H100: arXiv 2407.08608, section 3.1).
CHIPS = (
    Chip("v4", "TPU v4", 275e12, 30.75 * GIB, 1.23e12, 90e9, 6.25e9),
    Chip("v5e", "TPU v5 lite", 197e12, 15.75 * GIB, 0.82e12, 90e9, 3.125e9),
    Chip("v5e", "TPU v5e", 197e12, 15.75 * GIB, 0.82e12, 90e9, 3.125e9),
    Chip("v5p", "TPU v5", 459e12, 95.0 * GIB, 2.77e12, 180e9, 6.25e9),
    Chip("v6e", "TPU v6", 918e12, 31.25 * GIB, 1.64e12, 180e9, 12.5e9),
    Chip("tpu7x", "TPU7x", 1153e12, 94.0 * GIB, 3.69e12, 200e9, 12.5e9),
    Chip("a100", "A100", 312e12, 78 * GIB, 2.0e12, 300e9, 25e9, 32e9, 2.4e12),
    Chip("h100", "H100", 989e12, 78 * GIB, 3.35e12, 450e9, 50e9, 64e9, 3.9e12),
    Chip("h200", "H200", 989e12, 139 * GIB, 4.8e12, 450e9, 50e9, 64e9, 3.9e12),
    Chip("b200", "B200", 2250e12, 178 * GIB, 8.0e12, 900e9, 50e9, 64e9, 4.4e12),
)
NAMES = tuple(dict.fromkeys(chip.name for chip in CHIPS))


def named(name: str) -> Chip:
    """The chip of a name such as v5p or h200. Raises UserError for one that is not known."""
    if name not in NAMES:
        raise UserError(f"no chip {name!r} is known; known are {', '.join(NAMES)}")
    return next(chip for chip in CHIPS if chip.name == name)


def peak_flops(device_kind: str) -> float | None:
    """Peak FLOP/s of a device; None where it is not known (a CPU)."""
    return next((chip.flops for chip in CHIPS if chip.kind in device_kind), None)
