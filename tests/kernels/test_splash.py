"""The TPU kernels, compiled for real chips on a machine without one."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from scratchpatch.bench.train import nothing_cached
from scratchpatch.kernels import attention, splash

pytestmark = pytest.mark.usefixtures("libtpu_without_flags")


def test_a_block_adds_little_padding():
    assert [splash.block_size(n) for n in (1, 128, 200, 256, 500, 640, 8192)] == [128, 128, 128, 256, 512, 128, 512]
    for length in range(1, 3000, 7):
        size = splash.block_size(length)
        assert size == 128 or -length % size <= length / 8


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu not installed: `pip install libtpu` compiles the kernels for TPUs, with none at hand",
)
@pytest.mark.parametrize(
    "chips, what", [("v5p:2x2x1", "staircase"), ("v6e:2x2", "window"), ("tpu7x:2x2x1", "staircase")]
)
def test_values_and_gradients_compile_for_a_tpu(monkeypatch, chips, what):
    """Chosen by the mesh's platform alone, and spread over rows and heads."""
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    devices = np.array(topologies.get_topology_desc(platform="tpu", topology_name=chips).devices[:4]).reshape(2, 2)
    mesh = Mesh(devices, ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    rows, length, heads, groups, width = (4, 640, 4, 2, 128) if what == "staircase" else (4, 1024, 2, 2, 64)

    def shaped(*shape, dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec("data")))

    def value(q, k, v, begin_BN, end_BN):
        if what == "staircase":
            return attention.staircase(q, k, v, begin_BN, end_BN, 256).astype(jnp.float32).sum()
        return attention.window(q, k, v, begin_BN, 200).astype(jnp.float32).sum()

    keys, numbers = shaped(rows, length, groups, width), shaped(rows, length, dtype=jnp.int32)
    # A program for a chip that is not there cannot be read back from the cache.
    with jax.set_mesh(mesh), nothing_cached():
        step = jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2)))
        lowered = step.lower(shaped(rows, length, heads, width), keys, keys, numbers, numbers)
        assert lowered.compile().memory_analysis().temp_size_in_bytes > 0
    for kernel in ("splash_mha_fwd_residuals", "splash_mha_dq_no_residuals", "splash_mha_dkv_no_residuals"):
        assert kernel in lowered.as_text()
