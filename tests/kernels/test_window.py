import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch.bench import linear
from scratchpatch.kernels import attention, xla
from tests.kernels.backends import norm, using, value_and_gradients

B, L, H, K = 2, 45, 2, 4  # 45: no multiple of any block


def dense(q_BLHK, k_BLHK, v_BLHK, start_BL, window):
    """Masked softmax over all [L, L]."""
    length, width = q_BLHK.shape[1], q_BLHK.shape[3]
    n_L1, m_1L = jnp.arange(length)[:, None], jnp.arange(length)
    see_BLL = (m_1L <= n_L1) & (m_1L > n_L1 - window) & (m_1L >= start_BL[..., None])
    logits = jnp.einsum("bnhk,bmhk->bhnm", q_BLHK, k_BLHK) * width**-0.5
    weights = jax.nn.softmax(jnp.where(see_BLL[:, None], logits, -jnp.inf), axis=-1)
    return jnp.einsum("bhnm,bmhk->bnhk", weights, v_BLHK)


def rows(length: int, starts: tuple[int, ...]):
    """A row of one document, and a row of several."""
    rng = np.random.default_rng(0)
    q, k, v, weight = (jnp.asarray(rng.normal(size=(B, length, H, K)), jnp.float32) for _ in range(4))
    start_BL = np.zeros((B, length), np.int32)
    for start in starts:
        start_BL[1, start:] = start
    return q, k, v, jnp.asarray(start_BL), weight


@pytest.fixture(scope="module")
def inputs():
    return rows(L, (7, 30, 31))  # one of a single byte


@pytest.fixture(scope="module")
def long_inputs():
    return rows(450, (100, 101, 330))


attend = jax.jit(attention.window, static_argnums=(4, 5))


def check(inputs, window, backend):
    q, k, v, start_BL, weight = inputs
    got = value_and_gradients(lambda *qkv: attention.window(*qkv, start_BL, window, backend), backend, q, k, v, weight)
    wanted = value_and_gradients(lambda *qkv: dense(*qkv, start_BL, window), "xla", q, k, v, weight)
    for g, w in zip(got, wanted, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("window", [1, 16, 17, 45, 100])
def test_xla_equals_dense_attention_in_values_and_gradients(inputs, window):
    check(inputs, window, "xla")


@pytest.mark.parametrize("backend", ["splash", "pallas", "blocked"])
@pytest.mark.parametrize("window", [1, 65, 129, 500])
def test_kernels_equal_dense_attention_in_values_and_gradients(long_inputs, window, backend):
    """Windows that end with a block of keys, one byte behind it, and never."""
    check(long_inputs, window, backend)


@pytest.mark.parametrize("backend", ["xla", "splash", "pallas", "blocked"])
def test_a_window_of_one_byte_returns_its_value(inputs, backend):
    q, k, v, start_BL, _ = inputs
    with using(backend):
        np.testing.assert_allclose(attend(q, k, v, start_BL, 1, backend), v, rtol=1e-6)


@pytest.mark.parametrize("backend", ["xla", "splash", "pallas", "blocked"])
def test_bfloat16_keeps_its_type_and_is_close(inputs, backend):
    *qkv, start_BL, _ = inputs
    with using(backend):
        got = attend(*(x.astype(jnp.bfloat16) for x in qkv), start_BL, 16, backend)
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), dense(*qkv, start_BL, 16), atol=0.05)


@pytest.mark.parametrize("backend", ["xla", "splash", "pallas", "blocked"])
def test_in_bfloat16_logits_of_size_10_stay_float32(inputs, backend):
    """Rounded to bfloat16 they are off by up to 0.06, and their weights by as many parts of 1."""
    q, k, v, start_BL, weight = inputs
    rounded = [x.astype(jnp.bfloat16) for x in (10 * q, k, v, weight)]
    exact = [x.astype(jnp.float32) for x in rounded]
    got = value_and_gradients(lambda *qkv: attention.window(*qkv, start_BL, 16, backend), backend, *rounded)
    wanted = value_and_gradients(lambda *qkv: dense(*qkv, start_BL, 16), "xla", *exact)
    off = [norm(g.astype(jnp.float32) - w) / norm(w) for g, w in zip(got, wanted, strict=True)]
    assert off[0] < 0.005 and max(off[1:]) < 0.02


def test_a_block_holds_a_window_and_never_exceeds_the_row():
    assert xla.block_size(1, 1000) == 16
    assert xla.block_size(128, 1000) == 128
    assert xla.block_size(128, 50) == 50


@pytest.mark.parametrize("backend", ["xla", "splash", "pallas"])
def test_memory_does_not_hold_a_square_of_the_row(backend):
    def largest(length):
        x = jax.ShapeDtypeStruct((1, length, 1, 4), jnp.float32)
        start = jax.ShapeDtypeStruct((1, length), jnp.int32)
        with using(backend):
            gradient = jax.grad(lambda q, k, v, s: attention.window(q, k, v, s, 32, backend).sum(), argnums=(0, 1, 2))
            text = jax.jit(gradient).lower(x, x, x, start).as_text("hlo")
        return linear.arrays(text)[0].bytes

    assert largest(4096) <= 2 * largest(2048)
