import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec

from scratchpatch import sharding
from scratchpatch.distributed import mesh
from scratchpatch.errors import UserError
from scratchpatch.model import weights
from scratchpatch.training.step import Trainer
from tests import tiny


@pytest.fixture(scope="module")
def cube():
    """A mesh of data 2, fsdp 2, tensor 2."""
    return mesh.make(tiny.config({"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}))


@pytest.mark.parametrize(
    "names, shape, wanted",
    [
        (("rows", "positions", None), (8, 72, 16), PartitionSpec(("data", "fsdp"), None, None)),
        (("width", "trunk_inner"), (16, 32), PartitionSpec("fsdp", "tensor")),
        (("layers", "width", "local_inner"), (1, 16, 16), PartitionSpec(None, "fsdp", None)),
        (("vocabulary", "width"), (264, 16), PartitionSpec(None, "fsdp")),
        ((None,), (3,), PartitionSpec(None)),
    ],
)
def test_names_become_mesh_axes(cube, names, shape, wanted):
    assert sharding.spec(names, shape, cube, "x") == wanted


def test_axes_of_one_device_shard_nothing_and_divide_everything():
    alone = mesh.make(tiny.config())
    assert sharding.spec(("rows", "width"), (7, 13), alone, "x") == PartitionSpec(None, None)


def test_a_collision_names_the_array_and_both_axes(cube):
    message = r"trunk/q/kernel: axes 'rows' and 'width' are both sharded over mesh.fsdp: name one"
    with pytest.raises(UserError, match=message):
        sharding.spec(("rows", "width"), (8, 16), cube, "trunk/q/kernel")


def test_an_indivisible_size_names_the_array_the_axis_and_the_fix(cube):
    with pytest.raises(
        UserError,
        match=r"x: rows = 6 \(dimension 0\) is not divisible by mesh.data x mesh.fsdp = 4: change training.batch_rows",
    ):
        sharding.spec(("rows", None), (6, 72), cube, "x")
    message = r"x: width = 15 \(dimension 0\) is not divisible by mesh.fsdp = 2: change the width or mesh.fsdp"
    with pytest.raises(UserError, match=message):
        sharding.spec(("width",), (15,), cube, "x")


def test_every_parameter_has_a_place_and_the_large_ones_are_spread(cube):
    config = tiny.config()
    placed, (_, shapes) = weights.shardings(config, cube), weights.abstract(config)
    for (path, place), x in zip(jax.tree_util.tree_leaves_with_path(placed), jax.tree.leaves(shapes), strict=True):
        name = "/".join(part.key for part in path)
        shards = len({str(index) for index in place.devices_indices_map(x.shape).values()})
        in_trunk = "trunk/stack" in name
        assert shards == (1 if not name.endswith(("kernel", "embedding")) else 4 if in_trunk else 2), name


def test_a_parameter_that_the_mesh_does_not_divide_is_named():
    odd = mesh.make(tiny.config({"mesh.data": 1, "mesh.fsdp": 3, "training.batch_rows": 3}))
    with pytest.raises(UserError, match=r"\w+/\w+.*kernel: width = (16|32) .* is not divisible by mesh.fsdp = 3"):
        weights.shardings(tiny.config(), odd)


def test_constrain_pins_only_on_a_mesh_of_several_devices(cube):
    x = jnp.ones((8, 6, 4))
    assert sharding.constrain(x, "seam", "rows", "positions", None) is x
    with jax.set_mesh(mesh.make(tiny.config())):
        assert sharding.constrain(x, "seam", "rows", "positions", None) is x
    with jax.set_mesh(cube):
        pinned = jax.jit(lambda x: sharding.constrain(x, "seam", "rows", "positions", None))(x)
        assert pinned.sharding.spec == PartitionSpec(("data", "fsdp"))
        with pytest.raises(UserError, match="trunk.input: rows = 6"):
            jax.jit(lambda x: sharding.constrain(x, "trunk.input", "rows", None))(jnp.ones((6, 4)))


def test_seams_are_recorded_while_they_are_traced(cube):
    with jax.set_mesh(cube), sharding.recorded() as seams:
        jax.eval_shape(lambda x: sharding.constrain(x, "here", "local_rows", None, None), jnp.ones((8, 6, 4)))
    assert seams == {"here": PartitionSpec(("data", "fsdp", "tensor"), None, None)}


def test_heads_that_the_tensor_axis_does_not_divide_are_named():
    config = tiny.config({"model.trunk.kv_heads": 1, "mesh.tensor": 2})
    step = Trainer(config, mesh.make(config))
    message = r"trunk.heads: trunk_heads = 1 .* mesh.tensor = 2: change model.trunk.heads, model.trunk.kv_heads"
    with pytest.raises(UserError, match=message):
        step.compile()
