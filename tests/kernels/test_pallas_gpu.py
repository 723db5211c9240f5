"""The GPU kernels, lowered for one without one."""

import jax
import jax.numpy as jnp
import pytest

from scratchpatch.kernels import attention, choice


@pytest.mark.parametrize("width, dtype", [(64, jnp.bfloat16), (128, jnp.bfloat16), (40, jnp.float32)])
def test_values_and_gradients_lower_to_triton(width, dtype):
    def value(q, k, v, begin_BN, end_BN):
        slots = attention.staircase(q, k, v, begin_BN, end_BN, 256, "pallas")
        return (slots + attention.window(q, q, q, begin_BN, 200, "pallas")).astype(jnp.float32).sum()

    q, k = (jax.ShapeDtypeStruct((2, 600, heads, width), dtype) for heads in (4, 2))
    numbers = jax.ShapeDtypeStruct((2, 600), jnp.int32)
    with choice.platform("gpu"):
        step = jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2)))
        text = step.trace(q, k, k, numbers, numbers).lower(lowering_platforms=("cuda",)).as_text()
    for kernel in ("_forward_kernel", "_query_gradient_kernel", "_key_gradient_kernel"):
        assert text.count(f'name = "{kernel}"') == 2
