import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch.kernels import staircase
from scratchpatch.patching import documents, slots
from tests import tiny

B, L, H, G, K, P, S = 2, 40, 4, 2, 4, 14, 13
N = P + S


def dense(q_BNHK, k_BNGK, v_BNGK, see_BNN):
    """Masked softmax over all [N, N], one key-value head after the other."""
    repeat = lambda x: jnp.repeat(x, H // k_BNGK.shape[2], axis=2)  # noqa: E731
    logits = jnp.einsum("bihk,bjhk->bhij", q_BNHK, repeat(k_BNGK)) * K**-0.5
    weights = jax.nn.softmax(jnp.where(see_BNN[:, None], logits, -jnp.inf), axis=-1)
    return jnp.einsum("bhij,bjhk->bihk", weights, repeat(v_BNGK))


@pytest.fixture(scope="module")
def layout():
    """Slots of a row of three documents and of a row inside one, some slots unused; and who sees whom."""
    rng = np.random.default_rng(0)
    tokens_BL = np.stack([tiny.pack(rng, [9, 3], L), tiny.pack(rng, [25], L, inside=True)])
    kind_BL = rng.choice(3, (B, L), p=(0.5, 0.25, 0.25))
    start_BL = np.asarray(documents.starts(jnp.asarray(tokens_BL)))
    built = slots.build(jnp.asarray(kind_BL == 1), jnp.asarray(kind_BL == 2), jnp.asarray(start_BL), P, S)
    end_BN, valid_BN = np.asarray(built.end_BN), np.asarray(built.valid_BN)
    see_BNN = np.tile(np.eye(N, dtype=bool), (B, 1, 1))
    for r in range(B):
        for i in np.flatnonzero(valid_BN[r]):
            for j in np.flatnonzero(valid_BN[r, :P]):  # the rule of DESIGN 2, by byte positions
                before = end_BN[r, j] < end_BN[r, i]
                see_BNN[r, i, j] |= before and start_BL[r, end_BN[r, j]] == start_BL[r, end_BN[r, i]]
    assert 0 < valid_BN.sum() < valid_BN.size
    return built, jnp.asarray(see_BNN)


def arrays(groups: int):
    rng = np.random.default_rng(groups)
    shapes = ((B, N, H, K), (B, N, groups, K), (B, N, groups, K), (B, N, H, K))
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def value_and_gradients(attend, q, k, v, weight):
    @functools.partial(jax.value_and_grad, argnums=(0, 1, 2), has_aux=True)
    def value(q, k, v):
        out = attend(q, k, v)
        return (out * weight).sum(), out

    (_, out), gradients = jax.jit(value, compiler_options=tiny.QUICK)(q, k, v)
    return out, *gradients


@pytest.mark.parametrize("groups, chunk", [(4, 512), (2, 512), (1, 512), (2, 9), (4, 1)])
def test_equals_dense_attention_over_all_slots_in_values_and_gradients(layout, monkeypatch, groups, chunk):
    monkeypatch.setattr(staircase, "CHUNK", chunk)
    built, see_BNN = layout
    attend = lambda q, k, v: staircase.attend(q, k, v, built.first_BN, built.commits_BN, P)  # noqa: E731
    got = value_and_gradients(attend, *arrays(groups))
    wanted = value_and_gradients(lambda q, k, v: dense(q, k, v, see_BNN), *arrays(groups))
    for g, w in zip(got, wanted, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-5, atol=1e-5)


def test_scratchpads_serve_no_slot_but_their_own(layout):
    built, _ = layout
    q, k, v, _ = arrays(G)
    run = jax.jit(lambda k, v: staircase.attend(q, k, v, built.first_BN, built.commits_BN, P))
    got, changed = run(k, v), run(k.at[:, P:].add(9.0), v.at[:, P:].add(9.0))
    assert (got[:, :P] == changed[:, :P]).all()
    only_one = run(k, v.at[:, P + 2].add(9.0))
    assert (jnp.abs(only_one - got).max(axis=(0, 2, 3)) > 0).tolist() == [i == P + 2 for i in range(N)]


def test_logits_far_apart_stay_finite_with_their_gradients(layout):
    built, see_BNN = layout
    q, k, v, weight = arrays(G)
    attend = lambda q, k, v: staircase.attend(q, k, v, built.first_BN, built.commits_BN, P)  # noqa: E731
    got = value_and_gradients(attend, 200 * q, k, v, weight)
    wanted = value_and_gradients(lambda q, k, v: dense(q, k, v, see_BNN), 200 * q, k, v, weight)
    for g, w in zip(got, wanted, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("chunk", [512, 8])
def test_bfloat16_keeps_its_type_and_is_close(layout, monkeypatch, chunk):
    monkeypatch.setattr(staircase, "CHUNK", chunk)
    built, see_BNN = layout
    q, k, v, weight = arrays(G)
    attend = lambda q, k, v: staircase.attend(q, k, v, built.first_BN, built.commits_BN, P)  # noqa: E731
    out, *gradients = value_and_gradients(attend, *(x.astype(jnp.bfloat16) for x in (q, k, v, weight)))
    assert out.dtype == jnp.bfloat16 and all(jnp.isfinite(g.astype(jnp.float32)).all() for g in gradients)
    np.testing.assert_allclose(out.astype(jnp.float32), dense(q, k, v, see_BNN), atol=0.05)


def test_a_single_slot_without_commits_returns_its_value():
    q, v = jnp.ones((1, 1, 2, 4)), jnp.full((1, 1, 2, 4), 3.0)
    zero = jnp.zeros((1, 1), jnp.int32)
    assert (staircase.attend(q, q, v, zero, zero, 1) == v).all()
