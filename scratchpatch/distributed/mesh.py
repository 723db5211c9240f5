"""The device mesh of a run.

The axes, outermost first, are `slice` (TPU slices, joined by the slow network between them: pure data parallelism),
`data`, `fsdp` (rows, and parameters), `tensor` (heads and feed-forward width of the trunk; rows elsewhere) and
`sequence` (positions of long windows).
"""

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

from scratchpatch import config as config_lib
from scratchpatch.errors import UserError

AXES = ("slice", "data", "fsdp", "tensor", "sequence")
# The axes that rows of a batch are spread over, from one part of it to the other.
ROW_AXES = ("slice", "data", "fsdp", "tensor")


def sizes(config, devices: int) -> dict[str, int]:
    """Axis to size, with the devices that the others leave for the axis that is -1. Raises UserError where the axes do
    not fit the number of devices, or rows of a step do not divide over them.
    """
    shape = {axis: config.mesh[axis] for axis in AXES}
    named = " x ".join(f"mesh.{axis}={size}" for axis, size in shape.items() if size > 1)
    for axis, size in shape.items():
        if size == -1:
            rest = math.prod(s for s in shape.values() if s > 0)
            if devices % rest:
                raise UserError(
                    f"{named} = {rest} does not divide {devices} devices, so none are left whole for mesh.{axis}=-1; "
                    f"divisors of {devices} fit"
                )
            shape[axis] = devices // rest
    if (wanted := math.prod(shape.values())) > devices:
        raise UserError(f"{named} wants {wanted} devices; there are {devices}: lower one, or set it to -1")
    rows, shards = config.training.batch_rows, math.prod(shape[axis] for axis in ROW_AXES)
    if rows % shards:
        over = " x ".join(f"mesh.{axis}={shape[axis]}" for axis in ROW_AXES if shape[axis] > 1)
        raise UserError(
            f"training.batch_rows = {rows} is not divisible by {over} = {shards}: "
            f"set it to {max(rows // shards, 1) * shards} or {(rows // shards + 1) * shards}, or use fewer devices"
        )
    return shape


def make(config, devices: Sequence | None = None) -> Mesh:
    """The mesh that `config.mesh` names, over `devices` (default: all). Raises UserError as `sizes` does, and where
    mesh.slice is not the number of TPU slices.
    """
    devices = list(jax.devices() if devices is None else devices)
    shape = tuple(sizes(config, len(devices)).values())
    devices = devices[: math.prod(shape)]
    return Mesh(_arrange(shape, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def over(config, devices: int | None = None, axes: Mapping[str, int] | None = None) -> Mesh | None:
    """The mesh on which a trained model is used; None: one device. Of several processes all devices take part.

    Args:
      devices: how many; None: what the axes want, and without axes one device, or those of all processes.
      axes: axis to size, 1 where it is not named; one may be -1, the devices that the others leave. None: parameters
        are spread over the devices of each TPU slice (fsdp).
    Raises:
      UserError: there are fewer devices, the axes want another number of them, or a process would be left out.
    """
    everyone, several = jax.devices(), jax.process_count() > 1
    if axes is None:
        axes, wanted = {"slice": _slices(everyone) if several else 1, "fsdp": -1}, len(everyone) if several else 1
    else:
        wanted = len(everyone) if -1 in axes.values() else math.prod(axes.values())
    count = wanted if devices is None else devices
    if count > len(everyone):
        raise UserError(f"{count} devices were asked for; there are {len(everyone)}")
    if several and count < len(everyone):
        raise UserError(f"{count} devices were asked for, but {jax.process_count()} processes use all {len(everyone)}")
    sizes = {f"mesh.{axis}": axes.get(axis, 1) for axis in AXES}
    config = config_lib.from_flat(
        config_lib.flat(config) | sizes | {"training.batch_rows": count, "training.accumulation": 1}
    )
    made = make(config, everyone[:count])
    if made.size != count:
        raise UserError(f"{count} devices were asked for, and the axes of the mesh have {made.size}: leave one out")
    return made if count > 1 else None


def _arrange(shape: tuple[int, ...], devices: list) -> np.ndarray:
    """Devices in the mesh's shape, neighbours on the wires where the hardware has such."""
    if devices[0].platform != "tpu":
        return np.array(devices).reshape(shape)
    slices = _slices(devices)
    if shape[0] != slices:
        raise UserError(
            f"mesh.slice = {shape[0]}, but these devices are {slices} TPU slices: set mesh.slice={slices} "
            "(only data parallelism is worth its traffic between slices)"
        )
    inside = shape[1:]
    if slices == 1:
        return mesh_utils.create_device_mesh(inside, devices, allow_split_physical_axes=True)[None]
    across = (slices, *(1 for _ in inside))
    return mesh_utils.create_hybrid_device_mesh((1, *inside), across, devices, allow_split_physical_axes=True)


def _slices(devices: list) -> int:
    return len({getattr(device, "slice_index", 0) for device in devices})


def settled(config, mesh: Mesh | AbstractMesh):
    """A copy of the config whose mesh is this one, without -1."""
    config = config_lib.from_flat(config_lib.flat(config))
    for axis in AXES:
        config.mesh[axis] = mesh.shape[axis]
    return config


def parts(config, mesh: Mesh | AbstractMesh) -> int:
    """Parts that a step's rows are computed in: `training.accumulation`, or as many as leave every device a row. On
    more devices fewer parts hold as little; the step's result does not depend on them.
    """
    rows = config.training.batch_rows // row_shares(mesh)
    return math.gcd(rows, config.training.accumulation)


def of(tree) -> Mesh | None:
    """The mesh of several devices that a tree of arrays is spread over; None: one device, or the host."""
    sharding = getattr(jax.tree.leaves(tree)[0], "sharding", None)
    return sharding.mesh if isinstance(sharding, NamedSharding) and sharding.mesh.size > 1 else None


def without_sequence(tree, mesh: Mesh):
    """(the same arrays, a mesh of the same devices on which `sequence` is a part of `data`).

    No array moves: nothing of weights is spread over these axes.
    """
    if mesh.shape["sequence"] == 1:
        return tree, mesh
    slices, data, fsdp, tensor, sequence = mesh.devices.shape
    devices = np.moveaxis(mesh.devices, -1, 2).reshape(slices, data * sequence, fsdp, tensor, 1)
    other = Mesh(devices, mesh.axis_names, axis_types=mesh.axis_types)

    def rename(x):
        parts = [shard.data for shard in x.addressable_shards]
        return jax.make_array_from_single_device_arrays(x.shape, NamedSharding(other, x.sharding.spec), parts)

    return jax.tree.map(rename, tree), other


def everywhere(mesh: Mesh | None) -> NamedSharding | None:
    """Where every device, so every process, has an array whole; None without a mesh."""
    return mesh and NamedSharding(mesh, PartitionSpec())


def row_shares(mesh: Mesh | AbstractMesh | None) -> int:
    """Shares that the rows of a batch are dealt in."""
    return math.prod(mesh.shape[axis] for axis in ROW_AXES) if mesh else 1


def rows_here(batch: jax.ShapeDtypeStruct) -> np.ndarray:
    """int64: which rows of each part of a batch, [parts, rows, ...], this process's devices hold; in order."""
    held = np.zeros(batch.shape[1], bool)
    for _, rows, *_ in batch.sharding.addressable_devices_indices_map(batch.shape).values():
        held[rows] = True
    return np.flatnonzero(held)


def inside(mesh: Mesh | None, program: Callable) -> Callable:
    """The program, called with this mesh set; as it is without one."""
    if mesh is None:
        return program

    def run(*arguments, **named):
        with jax.set_mesh(mesh):
            return program(*arguments, **named)

    return run
