"""A projection on one device and on eight: values, gradients, and the type that gradients are summed in."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec

from scratchpatch import sharding
from scratchpatch.distributed import mesh
from scratchpatch.model import layers
from scratchpatch.planning import hlo
from tests import tiny

IN, OUT = 16, 32


def arrays():
    """Rows and a gradient of the result whose products, of all signs, cancel: sums in bfloat16 show."""
    rng = np.random.default_rng(0)
    return (rng.normal(size=(64, 5, n)).astype(np.float32).astype(jnp.bfloat16) for n in (IN, OUT))


def layer(dtype=jnp.bfloat16):
    return layers.linear(IN, OUT, ("width", "local_inner"), dtype, nnx.Rngs(params=0))


@functools.cache
def compiled(data: int, fsdp: int, summed_in: str):
    """(program, inputs) of the value and both gradients on a mesh."""
    made = mesh.make(tiny.config({"mesh.data": data, "mesh.fsdp": fsdp, "training.batch_rows": 64}))
    definition, params = nnx.split(layer())
    rows = NamedSharding(made, PartitionSpec(("data", "fsdp")))
    placed = [jax.device_put(params, sharding.state_shardings(params, made))]
    placed += [jax.device_put(x, rows) for x in arrays()]

    def run(params, x, g):
        with sharding.summing(summed_in):
            y, pull = jax.vjp(lambda params, x: nnx.merge(definition, params)(x), params, x)
            return y, *pull(g)

    with jax.set_mesh(made):
        return jax.jit(run).lower(*placed).compile(), placed


def kernel_gradient(data, fsdp, summed_in):
    program, placed = compiled(data, fsdp, summed_in)
    (gradient,) = jax.tree.leaves(program(*placed)[1])
    assert gradient.dtype == jnp.float32  # as the parameter, in whichever type it was summed
    return np.asarray(gradient, np.float64)


def exact():
    x, g = (np.asarray(a, np.float64).reshape(-1, a.shape[-1]) for a in arrays())
    return x.T @ g


def off(got):
    return np.linalg.norm(got - exact()) / np.linalg.norm(exact())


@pytest.mark.parametrize("data, fsdp", [(1, 1), (8, 1), (1, 8), (2, 4)])
def test_a_projection_is_the_product_of_rounded_numbers_on_every_mesh(data, fsdp):
    program, placed = compiled(data, fsdp, "float32")
    y, of_params, of_x = program(*placed)
    (x, g), kernel = arrays(), np.asarray(layer().kernel.get_value().astype(jnp.bfloat16), np.float64)
    assert y.dtype == of_x.dtype == jnp.bfloat16 and jax.tree.leaves(of_params)[0].dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(y, np.float64), np.asarray(x, np.float64) @ kernel, rtol=0.01, atol=0.01)
    np.testing.assert_allclose(np.asarray(of_x, np.float64), np.asarray(g, np.float64) @ kernel.T, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("data, fsdp", [(1, 1), (8, 1), (1, 8), (2, 4)])
def test_gradients_are_summed_in_the_type_that_is_named(data, fsdp):
    assert off(kernel_gradient(data, fsdp, "float32")) < 1e-6
    assert 1e-3 < off(kernel_gradient(data, fsdp, "bfloat16")) < 1e-2


def test_a_matrix_is_gathered_once_for_value_and_gradient():
    program, _ = compiled(1, 8, "float32")
    found = [c for c in hlo.collectives(program.as_text(), {"data": 1, "fsdp": 8}) if c.kind == "all-gather"]
    assert [(c.shapes, c.times) for c in found] == [(((IN, OUT),), 1)]


def test_float32_is_autodiffs_own_gradient():
    own = layer(jnp.float32)
    kernel, (x, g) = own.kernel.get_value(), (jnp.float32(a) for a in arrays())
    definition, params = nnx.split(own)
    y, pull = jax.vjp(lambda params, x: nnx.merge(definition, params)(x), params, x)
    wanted_y, wanted = jax.vjp(lambda kernel, x: x @ kernel, kernel, x)
    np.testing.assert_allclose(y, wanted_y, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(pull(g)), wanted(g), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
