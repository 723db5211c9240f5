import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, AxisType

from scratchpatch import config as config_lib
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.kernels import choice
from tests import tiny


def shaped(*shape, dtype=jnp.bfloat16):
    return jax.ShapeDtypeStruct(shape, dtype)


def staircase(platform, wanted="auto", rows=2, slots=640, groups=4, width=128, dtype=jnp.bfloat16):
    heads, commits = 4, min(256, slots)
    q, k = shaped(rows, slots, heads, width, dtype=dtype), shaped(rows, commits, groups, width, dtype=dtype)
    with choice.platform(platform):
        return choice.staircase(wanted, q, k)


def window(platform, wanted="auto", rows=2, length=8192, window=512, dtype=jnp.bfloat16):
    with choice.platform(platform):
        return choice.window(wanted, shaped(rows, length, 4, 64, dtype=dtype), window)


@pytest.mark.parametrize(
    "chosen, backend, reason",
    [
        (lambda: staircase("cpu"), "blocked", "cpu"),
        (lambda: staircase("cpu", slots=256), "xla", "cpu; 256 slots are few"),
        (lambda: staircase("tpu"), "splash", "tpu"),
        (lambda: staircase("tpu", dtype=jnp.float32), "splash", "tpu"),
        (lambda: staircase("tpu", slots=512), "xla", "tpu; 512 slots are few"),
        (lambda: staircase("tpu", rows=1 << 14), "xla", "no number for a range"),
        (lambda: staircase("gpu"), "pallas", "gpu"),
        (lambda: staircase("gpu", dtype=jnp.float32), "xla", "gpu; pallas spills registers in float32"),
        (lambda: staircase("gpu", width=256), "xla", "gpu; pallas takes heads of at most 128 channels, not 256"),
        (lambda: staircase("cpu", slots=4097), "xla", "cpu; blocked takes rows of at most 4096 queries, not 4097"),
        (lambda: window("cpu", length=4096), "blocked", "cpu"),
        (lambda: window("cpu"), "xla", "cpu; blocked takes rows of at most 4096 queries, not 8192"),
        (lambda: window("cpu", length=2048, window=128), "xla", "cpu; a window of 128 bytes is small"),
        (lambda: window("tpu"), "splash", "tpu"),
        (lambda: window("tpu", window=128), "xla", "tpu; a window of 128 bytes is small"),
        (lambda: window("tpu", rows=64), "xla", "no room for the blocks of 64 rows of 8192 queries"),
        (lambda: window("tpu", window=1 << 30), "splash", "tpu"),
        (lambda: window("gpu"), "pallas", "gpu"),
    ],
)
def test_automatic_choice_by_platform_shape_and_type(chosen, backend, reason):
    found = chosen()
    assert found.backend == backend and reason in found.reason


def test_a_backend_by_name_is_taken_whatever_the_shape():
    assert staircase("tpu", "splash", slots=8).backend == "splash"
    assert staircase("gpu", "pallas", dtype=jnp.float32).backend == "pallas"
    assert staircase("tpu", "xla").backend == window("gpu", "xla").backend == "xla"


@pytest.mark.parametrize(
    "chosen, message",
    [
        (lambda: staircase("cpu", "splash"), "kernels.staircase = 'splash' needs a TPU, and this runs on cpu: set it"),
        (lambda: window("tpu", "pallas"), "kernels.window = 'pallas' needs a GPU, and this runs on tpu"),
        (lambda: staircase("gpu", "pallas", width=256), "at most 128 channels, not 256"),
        (lambda: window("tpu", "splash", rows=64), "lower the rows per device"),
    ],
)
def test_a_backend_that_cannot_run_here_is_refused_with_the_fix(chosen, message):
    with pytest.raises(UserError, match=message):
        chosen()


def test_the_platform_is_that_of_the_mesh_before_that_of_the_machine():
    assert choice.current() == ("cpu", False)
    device = jax.sharding.AbstractDevice(device_kind="TPU v5", num_cores=2, platform="tpu")
    mesh = AbstractMesh((2, 2), ("data", "tensor"), axis_types=(AxisType.Auto,) * 2, abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        assert choice.current() == ("tpu", False)
        with choice.platform("gpu", interpret=True):
            assert choice.current() == ("gpu", True)
    mesh = mesh_lib.make(config_lib.default())
    with jax.set_mesh(mesh):
        assert choice.current() == ("cpu", False)


def test_heads_that_the_mesh_does_not_divide_stay_with_xla():
    config = config_lib.default()
    config.mesh.tensor = 4
    with jax.set_mesh(mesh_lib.make(config)):
        assert staircase("tpu").backend == "splash"
        assert "trunk_heads = 2 (dimension 2) is not divisible by mesh.tensor = 4" in staircase("tpu", groups=2).reason
        with pytest.raises(UserError, match="cannot be spread over the mesh"):
            staircase("tpu", "splash", groups=2)


def test_rows_are_counted_per_device():
    config = config_lib.default()
    assert window("tpu", rows=64).backend == "xla"
    with jax.set_mesh(mesh_lib.make(config)):
        assert window("tpu", rows=64).backend == "splash"


def test_a_choice_is_said_once_for_each_shape(caplog):
    choice._say.cache_clear()
    with caplog.at_level(logging.INFO, logger="absl"):
        for slots in (640, 640, 700):
            staircase("cpu", slots=slots)
    said = [r.getMessage() for r in caplog.records]
    assert said == [f"staircase: blocked (cpu), 2 x {slots} queries, 4 heads of 128, bfloat16" for slots in (640, 700)]


@pytest.mark.parametrize("name", ["staircase", "window"])
def test_the_model_takes_what_the_config_says(name):
    """What cannot run on this machine is refused by name."""
    config = tiny.config({f"kernels.{name}": "splash"})
    with pytest.raises(UserError, match=f"kernels.{name} = 'splash' needs a TPU"):
        tiny.forward(config)(tiny.weights(config), tiny.batch()[:, :-1])


def test_the_whole_model_is_the_same_with_kernels():
    layers = {"encoder": 1, "entropy_head": 0, "trunk": 1, "decoder": 0}
    fields = {f"model.{part}.layers": number for part, number in layers.items()}
    fields |= {"trigger.kind": "stride", "model.trunk.kv_heads": 1}
    weights, tokens_BL = tiny.weights(tiny.config(fields)), tiny.batch()[:, :-1]
    wanted = tiny.forward(tiny.config(fields))(weights, tokens_BL)
    for platform, backend in (("tpu", "splash"), ("gpu", "pallas")):
        config = tiny.config(fields | {"kernels.staircase": backend, "kernels.window": backend})
        with choice.platform(platform, interpret=True):
            got = tiny.forward(config)(weights, tokens_BL)
        np.testing.assert_allclose(got.logits_BLV, wanted.logits_BLV, atol=1e-4)
        assert (got.logits_BLV != wanted.logits_BLV).any()
