import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch.kernels import window as kernel
from tests import tiny

B, L, H, K = 2, 45, 2, 4  # 45: no multiple of any block


def dense(q_BLHK, k_BLHK, v_BLHK, start_BL, window):
    """Masked softmax over all [L, L]."""
    n_L1, m_1L = jnp.arange(L)[:, None], jnp.arange(L)
    see_BLL = (m_1L <= n_L1) & (m_1L > n_L1 - window) & (m_1L >= start_BL[..., None])
    logits = jnp.einsum("bnhk,bmhk->bhnm", q_BLHK, k_BLHK) * K**-0.5
    weights = jax.nn.softmax(jnp.where(see_BLL[:, None], logits, -jnp.inf), axis=-1)
    return jnp.einsum("bhnm,bmhk->bnhk", weights, v_BLHK)


@pytest.fixture(scope="module")
def inputs():
    rng = np.random.default_rng(0)
    q, k, v, weight = (jnp.asarray(rng.normal(size=(B, L, H, K)), jnp.float32) for _ in range(4))
    # A row of one document, and a row of four, one of them a single byte.
    start_BL = np.zeros((B, L), np.int32)
    for start in (7, 30, 31):
        start_BL[1, start:] = start
    return q, k, v, jnp.asarray(start_BL), weight


attend = jax.jit(kernel.attend, static_argnums=4, compiler_options=tiny.QUICK)


def value_and_gradients(attend, inputs, window):
    *qkv, start_BL, weight = inputs

    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
    def value(q, k, v):
        out = attend(q, k, v, start_BL, window)
        return (out * weight).sum(), out

    (_, out), gradients = jax.jit(value, compiler_options=tiny.QUICK)(*qkv)
    return out, *gradients


@pytest.mark.parametrize("window", [1, 16, 17, 45, 100])
def test_equals_dense_attention_in_values_and_gradients(inputs, window):
    got = value_and_gradients(kernel.attend, inputs, window)
    wanted = value_and_gradients(dense, inputs, window)
    for g, w in zip(got, wanted, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)


def test_a_window_of_one_byte_returns_its_value(inputs):
    q, k, v, start_BL, _ = inputs
    np.testing.assert_allclose(attend(q, k, v, start_BL, 1), v, rtol=1e-6)


def test_bfloat16_keeps_its_type_and_is_close(inputs):
    *qkv, start_BL, _ = inputs
    got = attend(*(x.astype(jnp.bfloat16) for x in qkv), start_BL, 16)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), dense(*qkv, start_BL, 16), atol=0.05)


def test_a_block_holds_a_window_and_never_exceeds_the_row():
    assert kernel.block_size(1, 1000) == kernel.SMALLEST_BLOCK
    assert kernel.block_size(128, 1000) == 128
    assert kernel.block_size(128, 50) == 50


def test_memory_does_not_hold_a_square_of_the_row():
    def largest(length):
        x = jax.ShapeDtypeStruct((1, length, 1, 4), jnp.float32)
        start = jax.ShapeDtypeStruct((1, length), jnp.int32)
        jaxpr = jax.make_jaxpr(lambda q, k, v, s: kernel.attend(q, k, v, s, 32))(x, x, x, start)
        return max(np.prod(v.aval.shape) for e in jaxpr.eqns for v in e.outvars)

    assert largest(4096) <= 2 * largest(2048)
