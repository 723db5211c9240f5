import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from scratchpatch import sharding
from scratchpatch.distributed import mesh
from scratchpatch.errors import UserError
from tests import tiny


def make(devices=8, **sizes):
    config = tiny.config({f"mesh.{k}" if k in mesh.AXES else f"training.{k}": v for k, v in sizes.items()})
    return mesh.make(config, jax.devices()[:devices])


def shape(made) -> tuple[int, ...]:
    return tuple(made.shape[axis] for axis in mesh.AXES)


@pytest.mark.parametrize(
    "sizes, wanted",
    [
        ({"data": -1}, (1, 8, 1, 1, 1)),
        ({"data": -1, "fsdp": 2, "tensor": 2}, (1, 2, 2, 2, 1)),
        ({"data": 1, "fsdp": 8}, (1, 1, 8, 1, 1)),
        ({"data": 2, "fsdp": -1}, (1, 2, 4, 1, 1)),
        ({"slice": 2, "data": 1, "sequence": -1}, (2, 1, 1, 1, 4)),
        ({"slice": -1, "data": 1, "tensor": 4}, (2, 1, 1, 4, 1)),
        ({"data": 2}, (1, 2, 1, 1, 1)),  # the other devices stay idle
    ],
)
def test_axes(sizes, wanted):
    made = make(**sizes)
    assert shape(made) == wanted
    assert made.devices.size == len({d.id for d in made.devices.flat})


def test_all_devices_are_the_default():
    assert mesh.make(tiny.config({"mesh.data": -1})).size == len(jax.devices())


@pytest.mark.parametrize(
    "sizes, message",
    [
        ({"data": -1, "fsdp": 3}, r"mesh.fsdp=3 = 3 does not divide 8 devices, .* mesh.data=-1; divisors of 8 fit"),
        ({"data": 4, "fsdp": 4}, r"mesh.data=4 x mesh.fsdp=4 wants 16 devices; there are 8: lower one"),
        ({"data": 8, "batch_rows": 12}, r"batch_rows = 12 is not divisible by mesh.data=8 = 8: set it to 8 or 16"),
        ({"data": 2, "tensor": 4, "batch_rows": 4}, r"not divisible by mesh.data=2 x mesh.tensor=4 = 8: set it to 8"),
    ],
)
def test_errors_name_the_axes_and_the_numbers(sizes, message):
    with pytest.raises(UserError, match=message):
        make(**sizes)


@pytest.mark.parametrize(
    "devices, rows, accumulation, wanted", [(1, 8, 4, 4), (2, 8, 4, 4), (4, 8, 4, 2), (8, 8, 4, 1), (2, 12, 4, 2)]
)
def test_parts_leave_every_device_a_row(devices, rows, accumulation, wanted):
    config = tiny.config({"mesh.data": devices, "training.batch_rows": rows, "training.accumulation": accumulation})
    assert mesh.parts(config, mesh.make(config)) == wanted


@dataclasses.dataclass(frozen=True)
class Chip:
    """What the mesh asks of a TPU device."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    platform: str = "tpu"
    device_kind: str = "TPU v5 lite"
    core_on_chip: int = 0
    process_index: int = 0


def two_slices() -> list[Chip]:
    return [Chip(8 * s + 4 * y + x, s, (x, y, 0)) for s in range(2) for y in range(2) for x in range(4)]


def test_the_slice_axis_is_the_slow_network():
    config = tiny.config({"mesh.slice": 2, "mesh.data": 2, "mesh.fsdp": 4, "training.batch_rows": 16})
    made = mesh.make(config, two_slices())
    assert shape(made) == (2, 2, 4, 1, 1)
    for index in range(2):
        assert {chip.slice_index for chip in made.devices[index].flat} == {index}


@pytest.mark.parametrize("size", [1, 4])
def test_a_slice_axis_of_another_size_than_the_slices_is_refused(size):
    config = tiny.config({"mesh.slice": size, "mesh.data": 16 // size, "training.batch_rows": 16})
    with pytest.raises(UserError, match=rf"mesh.slice = {size}, but these devices are 2 TPU slices: set mesh.slice=2"):
        mesh.make(config, two_slices())


def test_two_axes_cannot_both_take_the_rest():
    with pytest.raises(UserError, match="mesh.data and mesh.fsdp are both -1"):
        tiny.config({"mesh.data": -1, "mesh.fsdp": -1})


def test_a_settled_config_names_every_size():
    config = tiny.config({"mesh.data": -1, "mesh.fsdp": 2})
    found = mesh.settled(config, mesh.make(config)).mesh
    assert found.to_dict() == {"slice": 1, "data": 4, "fsdp": 2, "tensor": 1, "sequence": 1}
    assert config.mesh.data == -1


SHAPES = [{"data": 8}, {"data": 2, "fsdp": 4}, {"data": 4, "sequence": 2}, {"tensor": 8}]


@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_processes_read_the_rows_that_their_devices_hold(sizes):
    """Of 4 processes of 2 devices, here one: the rows of any two devices are found, and together make up a part."""
    fields = {"training.batch_rows": 16, "training.accumulation": 2, "mesh.data": 1}
    config = tiny.config(fields | {f"mesh.{k}": v for k, v in sizes.items()})
    made = mesh.make(config)
    placed_rows = NamedSharding(made, sharding.spec((None, "local_rows", None), (2, 8, 1), made, "batch"))
    batch = jax.ShapeDtypeStruct((2, 8, tiny.WINDOW + 1), jnp.int32, sharding=placed_rows)
    assert mesh.rows_here(batch).tolist() == list(range(8))
    placed = placed_rows.devices_indices_map(batch.shape)
    seen = np.concatenate([np.arange(8)[placed[device][1]] for device in made.devices.flat])
    assert sorted(set(seen.tolist())) == list(range(8)) and len(seen) == 8 * sizes.get("sequence", 1)


@pytest.mark.parametrize(
    "devices, axes, wanted",
    [
        (None, None, None),
        (1, None, None),
        (4, None, {"fsdp": 4}),
        (None, {"fsdp": 2, "tensor": 2}, {"fsdp": 2, "tensor": 2}),
        (None, {"fsdp": 2, "data": -1}, {"fsdp": 2, "data": 4}),
        (4, {"data": -1}, {"data": 4}),
        (2, {"fsdp": 2}, {"fsdp": 2}),
    ],
)
def test_a_trained_model_is_used_on_so_many_devices_or_on_named_axes(devices, axes, wanted):
    made = mesh.over(tiny.config(), devices, axes)
    assert (made and {axis: size for axis, size in made.shape.items() if size > 1}) == wanted


@pytest.mark.parametrize(
    "devices, axes, words",
    [
        (9, None, "9 devices were asked for; there are 8"),
        (None, {"data": 3, "fsdp": 3}, "9 devices were asked for; there are 8"),
        (4, {"fsdp": 2}, "4 devices were asked for, and the axes of the mesh have 2: leave one out"),
        (2, {"fsdp": 4}, "mesh.fsdp=4 wants 4 devices; there are 2"),
        (None, {"fsdp": 3, "data": -1}, "mesh.fsdp=3 = 3 does not divide 8 devices"),
    ],
)
def test_a_mesh_that_cannot_be_is_named(devices, axes, words):
    with pytest.raises(UserError) as caught:
        mesh.over(tiny.config(), devices, axes)
    assert words in str(caught.value)
