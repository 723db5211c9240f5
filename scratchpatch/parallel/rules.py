"""Sharding: one table from logical axis names to mesh axes.

Parameters and activations name what their axes are; where an axis lives is
decided here alone.
"""

import jax
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from scratchpatch.errors import UserError

# Rows are spread over data and fsdp. Local tiers know no tensor parallelism:
# for them the tensor axis is only replication; the trunk splits heads and
# feed-forward width over it.
TABLE = {
    "rows": ("data", "fsdp"),
    "positions": ("sequence",),
    "width": ("fsdp",),
    "local_inner": (),
    "trunk_inner": ("tensor",),
    "vocabulary": (),
    "layers": (),
}


def spec(names: tuple[str | None, ...], shape: tuple[int, ...], mesh: Mesh, what: str) -> PartitionSpec:
    """The PartitionSpec of an array whose axes have logical `names`.

    Raises:
      UserError: two axes of one array on the same mesh axis, or a size that
        the mesh axes do not divide; names the array, the axis and a fix.
    """
    taken: dict[str, str] = {}
    parts = []
    for name, size in zip(names, shape, strict=True):
        axes = tuple(a for a in TABLE[name] if mesh.shape.get(a, 1) > 1) if name else ()
        for axis in axes:
            if axis in taken:
                raise UserError(f"{what}: axes {taken[axis]!r} and {name!r} are both sharded over mesh.{axis}")
            taken[axis] = name
        share = 1
        for axis in axes:
            share *= mesh.shape[axis]
        if size % share:
            raise UserError(
                f"{what}: {name} = {size} is not divisible by mesh.{' x mesh.'.join(axes)} = {share}; "
                f"change the size or the mesh"
            )
        parts.append(axes[0] if len(axes) == 1 else (axes or None))
    return PartitionSpec(*parts)


def constrain(x: jax.Array, *names: str | None) -> jax.Array:
    """Pin an activation to its place on the current mesh; nothing without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec(names, x.shape, mesh, "activation"))


def state_shardings(state, mesh: Mesh):
    """NamedShardings of an `nnx.State`, from the axis names of its variables."""

    def place(path, variable):
        metadata = variable.get_metadata()
        value = variable.get_value()
        names = metadata.get("out_sharding") or metadata.get("sharding_names") or (None,) * len(value.shape)
        return NamedSharding(mesh, spec(names, value.shape, mesh, "/".join(map(str, path))))

    return nnx.map_state(place, state)
