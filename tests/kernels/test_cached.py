"""Attention to what was kept: the two orders of axes say the same, and a TPU's program moves no cache."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from scratchpatch.bench.train import nothing_cached
from scratchpatch.kernels import attention, xla
from scratchpatch.kernels.attention import Kept
from scratchpatch.planning import hlo, hlo_traffic

pytestmark = pytest.mark.usefixtures("libtpu_without_flags")


def step(q, k, v, cache: Kept, ring: Kept, position_BC, row_W):
    """The staircase and the window of new positions, all of them commits, and what is kept after them."""
    zero_BC, valid_BC = jnp.zeros_like(position_BC), jnp.ones(position_BC.shape, bool)
    slots = attention.cached_staircase(q, k, v, cache, zero_BC, position_BC)
    whole = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    bytes_, ring = attention.cached_window(q, *whole, ring, position_BC, zero_BC, valid_BC)
    return slots, bytes_, cache.put(k, v, position_BC), ring, cache.rows(row_W)


@pytest.mark.parametrize("length", (1, 3))
def test_both_orders_of_axes_say_the_same(length):
    rng, results = np.random.default_rng(0), []

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    q, k, v = normal(2, length, 4, 8), normal(2, length, 2, 8), normal(2, length, 2, 8)
    kept = [normal(2, heads, places, 8) for heads, places in ((2, 12), (2, 12), (4, 5), (4, 5))]
    position_BC = jnp.array([[6], [9]]) + jnp.arange(length)
    for places_first in (False, True):
        arrays = [x.swapaxes(1, 2) if places_first else x for x in kept]
        cache, ring = Kept(*arrays[:2], places_first), Kept(*arrays[2:], places_first)
        slots, bytes_, *later = step(q, k, v, cache, ring, position_BC, jnp.array([1, 7]))
        results.append([slots, bytes_, *(x for each in later for x in each.by_heads)])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), (("float32", 1e-6), ("bfloat16", 1e-2)))
def test_the_staircase_is_that_of_whole_rows(dtype, tolerance):
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    q, k, v, *kept = (normal(2, *shape, 8) for shape in ((5, 4), (5, 2), (5, 2), (30, 2), (30, 2)))
    end_BN = rng.integers(0, 31, (2, 5)).astype(np.int32)
    begin_BN = (0.4 * end_BN).astype(np.int32)
    wanted = xla.dense(q, *kept, k, v, begin_BN, end_BN).astype(jnp.float32)
    cache = Kept(*(x.swapaxes(1, 2) for x in kept), False)
    got = jax.jit(attention.cached_staircase)(q, k, v, cache, begin_BN, end_BN).astype(jnp.float32)
    np.testing.assert_allclose(got, wanted, atol=tolerance)


@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu not installed: `pip install libtpu` compiles the kernels for TPUs, with none at hand",
)
def test_a_loop_on_a_tpu_reads_what_is_kept_once_per_turn_and_sends_nothing(monkeypatch):
    """Over rows and heads: one slot and one byte of each row per turn of a loop, with nothing else in it."""
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    monkeypatch.setenv("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    devices = np.array(topologies.get_topology_desc(platform="tpu", topology_name="v5p:2x2x1").devices).reshape(2, 2)
    mesh = Mesh(devices, ("data", "tensor"), axis_types=(AxisType.Auto,) * 2)
    rows, heads, groups, width, places = 16, 16, 8, 128, 512

    def shaped(*shape, spec=("data",), dtype=jnp.bfloat16):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*spec)))

    def run(q, k, v, kept, position_B1):
        def turn(i, state):
            out, cache, ring = state
            slots, bytes_, cache, ring, _ = step(q + out, k, v, cache, ring, position_B1 + i, jnp.arange(1))
            return slots + bytes_, cache, ring

        return jax.lax.fori_loop(0, 5, turn, (q, *kept))

    def empty():
        cache = Kept.empty(rows, groups, places, width, jnp.bfloat16).spread("rows", "trunk_heads")
        return cache, Kept.empty(rows, heads, places, width, jnp.bfloat16).spread("rows", "trunk_heads")

    of_heads = ("data", None, "tensor")
    with jax.set_mesh(mesh), nothing_cached():
        kept, where = jax.eval_shape(empty), jax.jit(empty).lower().compile().output_shardings
        kept = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), kept, where)
        new = (shaped(rows, 1, n, width, spec=of_heads) for n in (heads, groups, groups))
        program = jax.jit(run, donate_argnums=3).lower(*new, kept, shaped(rows, 1, dtype=jnp.int32)).compile()
    text, held = program.as_text(), sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(kept)) / 4
    assert kept[0].places_first and not hlo.collectives(text, dict(mesh.shape))
    assert program.memory_analysis().temp_size_in_bytes < 0.1 * held
    assert held < hlo_traffic.traffic(text) / 5 < 1.3 * held
