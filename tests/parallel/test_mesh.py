import jax
import pytest

from scratchpatch.errors import UserError
from scratchpatch.parallel import mesh
from tests import tiny


def make(devices=8, **sizes):
    config = tiny.config({f"mesh.{k}" if k in mesh.AXES else f"training.{k}": v for k, v in sizes.items()})
    return mesh.make(config, jax.devices()[:devices])


def shape(made) -> tuple[int, ...]:
    return tuple(made.shape[axis] for axis in mesh.AXES)


@pytest.mark.parametrize(
    "sizes, wanted",
    [
        ({"data": -1}, (8, 1, 1, 1)),
        ({"data": -1, "fsdp": 2, "tensor": 2}, (2, 2, 2, 1)),
        ({"data": 1, "fsdp": 8}, (1, 8, 1, 1)),
        ({"data": 2}, (2, 1, 1, 1)),  # the other devices stay idle
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
        ({"data": -1, "fsdp": 3}, r"mesh.fsdp x mesh.tensor x mesh.sequence = 3 does not divide 8 devices"),
        ({"data": 4, "fsdp": 4}, r"mesh.data=4 x mesh.fsdp=4 .* wants 16 devices; there are 8"),
        ({"data": 8, "batch_rows": 12}, r"training.batch_rows = 12 is not divisible by mesh.data x mesh.fsdp = 8"),
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
