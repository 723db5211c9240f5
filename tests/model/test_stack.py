import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from scratchpatch.model import layers, stack


def make(remat: str = "none", depth: int = 3) -> stack.Stack:
    layer = lambda rngs: layers.linear(4, 4, ("width", "local_inner"), jnp.float32, rngs)  # noqa: E731
    return stack.Stack(layer, depth, remat, nnx.Rngs(params=0))


def run(module, x):
    return module(x, lambda layer, x: jnp.tanh(layer(x)))


def test_layers_are_stacked_differ_and_are_threaded_in_order():
    module, x = make(), jnp.ones((2, 4))
    kernel = np.asarray(module.block.kernel.get_value())
    assert kernel.shape == (3, 4, 4) and not np.allclose(kernel[0], kernel[1])
    wanted = np.ones((2, 4))
    for i in range(3):
        wanted = np.tanh(wanted @ kernel[i])
    np.testing.assert_allclose(run(module, x), wanted, rtol=1e-5)


def test_no_layers_are_the_identity():
    module, x = make(depth=0), jnp.ones((2, 4))
    assert run(module, x) is x
    assert not jax.tree.leaves(nnx.state(module))


def test_the_axis_of_layers_is_named():
    metadata = make().block.kernel.get_metadata()
    assert (metadata.get("out_sharding") or metadata.get("sharding_names")) == ("layers", "width", "local_inner")


@pytest.mark.parametrize("remat", ["dots", "full"])
def test_remat_wraps_each_layer_and_keeps_the_gradient(remat):
    x = jnp.ones((2, 4))
    gradient = lambda module: jax.grad(lambda x: run(module, x).sum())  # noqa: E731
    plain, wrapped = gradient(make("none")), gradient(make(remat))
    has = lambda f: "remat" in str(jax.make_jaxpr(f)(x)) or "checkpoint" in str(jax.make_jaxpr(f)(x))  # noqa: E731
    assert has(wrapped) and not has(plain)
    np.testing.assert_allclose(wrapped(x), plain(x), rtol=1e-6)


def test_unrolled_holds_only_inside_its_block():
    module, x = make(), jnp.ones((2, 4))
    count = lambda: jax.jit(lambda x: run(module, x)).lower(x).as_text().count("stablehlo.while")  # noqa: E731
    assert count() == 1
    with stack.unrolled():
        assert count() == 0
    assert count() == 1
