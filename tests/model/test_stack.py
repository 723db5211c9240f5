import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from scratchpatch.kernels import attention
from scratchpatch.model import layers, stack
from tests import tiny


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


@pytest.mark.parametrize("remat", list(stack.REMAT_POLICIES))
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


KEEPING = ("dots", "ffn", "full")


@pytest.fixture(scope="module")
def tiers():
    """(a program that gives the gradient of a byte tier of 9 layers in its input, its input), by remat."""
    tokens_BL, made = jnp.ones((2, 512), jnp.int32), {}
    x_BLd = jnp.asarray(np.random.default_rng(0).normal(size=(2, 512, 32)), jnp.float32)
    for remat in ("none", *KEEPING):
        config = tiny.config({"training.remat": remat, "model.d_byte": 32})
        module = stack.ByteTier("encoder", config, 9, 2, 16, jnp.float32, nnx.Rngs(params=0))

        def gradient(x_BLd, module=module):
            return jax.grad(lambda x: jnp.square(module(x, tiny.rows(tokens_BL))).sum())(x_BLd)

        made[remat] = jax.jit(gradient).lower(x_BLd).compile()
    return made, x_BLd


def test_a_policy_keeps_less_in_the_compiled_program_and_changes_no_gradient(tiers):
    made, x_BLd = tiers
    held = {remat: program.memory_analysis().temp_size_in_bytes for remat, program in made.items()}
    assert held["none"] > 1.5 * held["dots"] and held["dots"] > 1.2 * held["ffn"] and held["ffn"] > 1.5 * held["full"]
    for remat in KEEPING:
        np.testing.assert_allclose(made[remat](x_BLd), made["none"](x_BLd), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("platform", ["tpu", "gpu"])
@pytest.mark.parametrize("remat", ["dots", "ffn"])
def test_what_the_attention_of_a_kernel_gives_is_kept(platform, remat):
    config = tiny.config({"training.remat": remat, "model.d_byte": 128})
    module = stack.ByteTier("encoder", config, 2, 1, 160, jnp.bfloat16, nnx.Rngs(params=0))
    x_BLd, tokens_BL = jax.ShapeDtypeStruct((2, 256, 128), jnp.bfloat16), jnp.ones((2, 256), jnp.int32)

    def backward(x_BLd):
        return jax.vjp(lambda x: module(x, tiny.rows(tokens_BL)), x_BLd)[1]

    with attention.platform(platform):
        kept = [x for x in jax.tree.leaves(jax.eval_shape(backward, x_BLd)) if x.shape[:2] == (2, 2)]
    # q, k, v and the result [layers, B, L, H, K]; its log-sum-exp [layers, B, H, L]; the state before and after it, and
    # under dots what the gate and its partner are [layers, B, L, h].
    shapes = [(2, 2, 256, 1, 128)] * 4 + [(2, 2, 1, 256)] + [(2, 2, 256, 128)] * 2
    shapes += [(2, 2, 256, 352)] * 2 if remat == "dots" else []
    assert sorted(x.shape for x in kept) == sorted(shapes)


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
