"""Sharding: one table from logical axis names to mesh axes.

Parameters and activations name what their axes are; where an axis lives is decided here alone.
"""

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from scratchpatch.errors import UserError

# The trunk splits heads and feed-forward width over tensor. Local tiers are too narrow: there, tensor takes rows.
TABLE = {
    "rows": ("slice", "data", "fsdp"),
    "local_rows": ("slice", "data", "fsdp", "tensor"),
    "positions": ("sequence",),
    "slots": ("sequence",),
    "width": ("fsdp",),
    "local_inner": (),
    "local_heads": (),
    "trunk_inner": ("tensor",),
    "trunk_heads": ("tensor",),
    "vocabulary": (),
    "layers": (),
}


@dataclasses.dataclass(frozen=True)
class Axes:
    """Logical names of the axes of activations [rows, positions, width], and of what lies inside a block of layers."""

    rows: str
    positions: str
    inner: str
    heads: str


BYTE_TIER = Axes("local_rows", "positions", "local_inner", "local_heads")
TRUNK = Axes("rows", "slots", "trunk_inner", "trunk_heads")

_FIXES = {
    "rows": "change training.batch_rows or training.accumulation",
    "local_rows": "change training.batch_rows or training.accumulation",
    "positions": "change data.window or mesh.sequence",
    "slots": "change mesh.sequence",
    "width": "change the width or mesh.fsdp",
    "trunk_inner": "change model.trunk.d_model or mesh.tensor",
    "trunk_heads": "change model.trunk.heads, model.trunk.kv_heads or mesh.tensor",
}

_SEAMS: list[dict[str, PartitionSpec]] = []
# Of the thread that traces: a run compiles its step beside its audit.
_SUMMED_IN = contextvars.ContextVar("gradients are summed in", default="float32")


def spec(names: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh | AbstractMesh, what: str) -> PartitionSpec:
    """The PartitionSpec of an array whose axes have logical `names`.

    Raises UserError for two axes of one array on the same mesh axis, and for a size that the mesh axes do not divide:
    it names the array (`what`), the dimension, the mesh axes and a fix.
    """
    taken: dict[str, str] = {}
    parts = []
    for dimension, (name, size) in enumerate(zip(names, shape, strict=True)):
        axes = tuple(a for a in TABLE[name] if mesh.shape.get(a, 1) > 1) if name else ()
        for axis in axes:
            if axis in taken:
                raise UserError(
                    f"{what}: axes {taken[axis]!r} and {name!r} are both sharded over mesh.{axis}: "
                    "name one of them otherwise, or give it another mesh axis in sharding.py"
                )
            taken[axis] = name
        share = math.prod(mesh.shape[axis] for axis in axes)
        if size % share:
            raise UserError(
                f"{what}: {name} = {size} (dimension {dimension}) is not divisible by mesh.{' x mesh.'.join(axes)} = "
                f"{share}: {_FIXES[name]}"
            )
        parts.append(axes[0] if len(axes) == 1 else (axes or None))
    return PartitionSpec(*parts)


def spread_mesh() -> AbstractMesh | None:
    """The mesh over which rows and heads are spread; None: it has one device, or this is already one device's part."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 or mesh.are_all_axes_manual else mesh


def constrain(x: jax.Array, seam: str, *names: str | None) -> jax.Array:
    """Pin an activation to its place on the current mesh; nothing without a mesh. `seam` names it in messages."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    place = spec(names, x.shape, mesh, seam)
    for seams in _SEAMS:
        seams[seam] = place
    return jax.lax.with_sharding_constraint(x, place)


def by_rows(tree, seam: str):
    """`constrain` arrays whose first axis is the row: each device of the mesh has rows of its own."""
    return jax.tree.map(lambda x: constrain(x, seam, "local_rows", *(None,) * (x.ndim - 1)), tree)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Of a matrix that fsdp spreads: `used` is whole over fsdp, for products; it and its gradient lie as `stored`."""

    used: PartitionSpec
    stored: PartitionSpec


def placement(variable: nnx.Variable) -> Placement | None:
    """The placement of a matrix on the current mesh; None where fsdp does not spread it."""
    mesh, names = jax.sharding.get_abstract_mesh(), _names(variable)
    if mesh.empty or mesh.shape.get("fsdp", 1) == 1 or "width" not in names:
        return None
    shape = variable.get_value().shape
    whole = tuple(None if name == "width" else name for name in names)
    used, stored = (spec(each, shape, mesh, f"a matrix of shape {shape}") for each in (whole, names))
    return Placement(used, stored)


@contextlib.contextmanager
def summing(dtype: str) -> Iterator[None]:
    """Gradients of matrices that are traced inside are summed, over devices and over parts of a step, in this type.

    In bfloat16 they take half the bytes on the wire, and each sum is rounded to 8 bits of mantissa.
    """
    token = _SUMMED_IN.set(dtype)
    try:
        yield
    finally:
        _SUMMED_IN.reset(token)


def gradient_dtype() -> jnp.dtype:
    """What `summing` says; float32 outside of it."""
    return jnp.dtype(_SUMMED_IN.get())


@contextlib.contextmanager
def recorded() -> Iterator[dict[str, PartitionSpec]]:
    """Seam to the place it was given, of what is traced inside."""
    _SEAMS.append({})
    try:
        yield _SEAMS[-1]
    finally:
        _SEAMS.pop()


def state_shardings(state, mesh: Mesh):
    """NamedShardings of an `nnx.State`, from the axis names of its variables."""

    def place(path, variable):
        names, shape = _names(variable), variable.get_value().shape
        return NamedSharding(mesh, spec(names, shape, mesh, "/".join(map(str, path))))

    return nnx.map_state(place, state)


def _names(variable) -> tuple[str | None, ...]:
    """The logical names of a variable's axes."""
    metadata = variable.get_metadata()
    dimensions = len(variable.get_value().shape)
    names = metadata.get("out_sharding") or metadata.get("sharding_names") or (None,) * dimensions
    # A layer taken out of its stack has lost the first one.
    return tuple(names)[len(names) - dimensions :]
