"""The device mesh of a run."""

import math

import jax
from jax.sharding import AxisType, Mesh

from scratchpatch.errors import UserError

AXES = ("data", "fsdp", "tensor", "sequence")


def make(config, devices=None) -> Mesh:
    """The mesh that `config.mesh` names, over `devices` (default: all).

    Raises:
      UserError: the axes do not multiply to the number of devices, or the rows
        of a step do not divide over data and fsdp.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [config.mesh[a] for a in AXES]
    if config.mesh.data == -1:
        rest = math.prod(sizes[1:])
        if len(devices) % rest:
            raise UserError(f"mesh.fsdp x mesh.tensor x mesh.sequence = {rest} does not divide {len(devices)} devices")
        sizes[0] = len(devices) // rest
    if math.prod(sizes) > len(devices):
        named = " x ".join(f"mesh.{a}={s}" for a, s in zip(AXES, sizes, strict=True))
        raise UserError(f"{named} wants {math.prod(sizes)} devices; there are {len(devices)}")
    rows, shards = config.training.batch_rows, sizes[0] * sizes[1]
    if rows % shards:
        raise UserError(f"training.batch_rows = {rows} is not divisible by mesh.data x mesh.fsdp = {shards}")
    devices = devices[: math.prod(sizes)]
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def parts(config, mesh: Mesh) -> int:
    """Parts that a step's rows are computed in: `training.accumulation`, or as many as leave every device a row.

    On more devices fewer parts hold as little; the step's result does not depend on them.
    """
    rows = config.training.batch_rows // (mesh.shape["data"] * mesh.shape["fsdp"])
    return math.gcd(rows, config.training.accumulation)
