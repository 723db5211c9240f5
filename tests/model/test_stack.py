import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from scratchpatch.kernels import attention
from scratchpatch.model import layers, stack


def make(remat: str = "none", depth: int = 3) -> stack.Stack:
    def layer(rngs):
        return layers.linear(4, 4, ("width", "local_inner"), jnp.float32, rngs)

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

    def gradient(module):
        return jax.grad(lambda x: run(module, x).sum())

    plain, wrapped = gradient(make("none")), gradient(make(remat))
    shown = [str(jax.make_jaxpr(f)(x)) for f in (plain, wrapped)]
    assert ["remat" in text or "checkpoint" in text for text in shown] == [False, True]
    np.testing.assert_allclose(wrapped(x), plain(x), rtol=1e-6)


def loops(module) -> int:
    return jax.jit(lambda x: run(module, x)).lower(jnp.ones((2, 4))).as_text().count("stablehlo.while")


def test_a_cpu_runs_few_layers_that_are_not_recomputed_without_a_loop():
    assert [loops(make()), loops(make("full")), loops(make(depth=9))] == [0, 1, 1]
    with attention.platform("tpu"):
        assert loops(make()) == 1


def test_unrolled_holds_only_inside_its_block():
    module = make(depth=9)

    def count():
        return loops(module)

    assert count() == 1
    with stack.unrolled():
        assert count() == 0
    assert count() == 1


def test_layers_that_were_taken_apart_are_those_of_the_stack():
    module, x = make(), jnp.ones((2, 4))
    apart = x
    for layer in module.separate():
        apart = layer(apart)
    np.testing.assert_allclose(apart, module(x, lambda layer, x: layer(x)), rtol=1e-6)
