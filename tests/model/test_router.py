"""Learned patches: router, smoothing, confidence and ratio loss against loops in float64, gradients included.

`tests/model/reference.py` has the whole model's formulas. Legend: B rows, L byte positions, M = L + 1 tokens, N slots,
d byte width, V vocabulary.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch.model import loss, router, weights
from scratchpatch.model.smoothing import smooth
from tests import tiny
from tests.model.combinations import COMBINATIONS
from tests.model.reference import Reference
from tests.patching.reference import spans

TOKENS_BL = tiny.batch()[:, :-1]
REAL = 257  # logits of bytes and of the end of a document
TARGET = 4.0  # bytes per patch


def vectors(*shape):
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_a_probability_is_half_of_one_minus_the_cosine():
    q_BLd = np.array([[[1, 0], [2, 0], [0, 3], [-5, 0], [1, 1]]], np.float32)
    before_BLd = np.array([[[9, 9], [4, 0], [2, 0], [1, 0], [1, 0]]], np.float32)
    got = router.probability(q_BLd, before_BLd, np.arange(5) == 0)
    np.testing.assert_allclose(got, [[1.0, 0.0, 0.5, 1.0, (1 - 0.5**0.5) / 2]], atol=1e-6)


@pytest.mark.parametrize("times", (0.0, 1.0, -1.0, 1e-6, 1e6))
def test_its_gradient_is_finite_at_no_vector_and_at_parallel_ones(times):
    x_BLd = vectors(1, 3, 4)

    def total(q_BLd, before_BLd):
        return router.probability(q_BLd, before_BLd, np.zeros((1, 3), bool)).sum()

    for pair in ((x_BLd, times * x_BLd), (times * x_BLd, x_BLd), (times * x_BLd, times * x_BLd)):
        assert all(np.isfinite(g).all() for g in jax.grad(total, argnums=(0, 1))(*pair))


def test_a_fresh_router_compares_the_states_themselves():
    config = tiny.config({"patching.kind": "learned", "model.decoder.residual": "projected"})
    params = jax.jit(lambda seed: weights.init(config, seed))(3)["params"]
    for name in ("q", "k"):
        assert np.array_equal(params["router"][name]["kernel"], np.eye(config.model.d_byte))
    assert not np.asarray(params["decoder"]["residual"]["kernel"]).any()
    # Nothing else begins otherwise.
    plain = jax.jit(lambda seed: weights.init(tiny.config(), seed))(3)["params"]
    del params["router"], params["decoder"]["residual"]
    jax.tree.map(np.testing.assert_array_equal, params, plain)


def test_confidence_changes_nothing_but_the_gradient():
    x_BLd, confidence_BL, g_BLd = vectors(2, 3, 4), vectors(2, 3), vectors(4)
    for dtype in (jnp.float32, jnp.bfloat16):
        x, g = jnp.asarray(x_BLd, dtype), jnp.asarray(np.broadcast_to(g_BLd, x_BLd.shape), dtype)
        y, back = jax.vjp(router.confident, x, confidence_BL)
        of_x, of_confidence = back(g)
        assert np.array_equal(x, y) and np.array_equal(of_x, g) and of_confidence.dtype == jnp.float32
        wanted_BL = (np.asarray(x, np.float64) * np.asarray(g, np.float64)).sum(-1)
        np.testing.assert_allclose(of_confidence, wanted_BL, rtol=1e-5, atol=1e-5)


SLOTS = {
    # Two documents; the first slot of each that is no scratchpad sees no commit before it.
    "p": [0.9, 0.2, 0.7, 0.6, 1.0, 0.3, 0.55],
    "commit": [1, 0, 1, 1, 1, 0, 1],
    "first": [1, 0, 0, 0, 1, 0, 0],
}


def mixed(c_Nd, null_d):
    """The loop that `smooth` is."""
    out, z = [], null_d
    for c, p, commit, first in zip(c_Nd, *SLOTS.values(), strict=True):
        p = min(max(p, 1e-4), 1 - 1e-4)
        if commit:
            z = p * c + (1 - p) * (null_d if first else z)
        out.append(z if commit else c)
    return np.stack(out), z


def test_contexts_are_mixed_with_those_before_them_whole_or_in_pieces():
    c_BNd, null_Bd = vectors(1, 7, 4), vectors(1, 4) + 1
    rows = [np.array([x], np.float32 if name == "p" else bool) for name, x in SLOTS.items()]
    wanted_Nd, last_d = mixed(c_BNd[0].astype(np.float64), null_Bd[0].astype(np.float64))
    got_BNd, after_Bd = smooth(c_BNd, *rows, null_Bd)
    np.testing.assert_allclose(got_BNd[0], wanted_Nd, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(after_Bd[0], last_d, rtol=1e-5, atol=1e-6)
    pieces, before_Bd = [], np.full_like(null_Bd, 9.0)  # which a row's first commit does not read
    for piece in (slice(0, 1), slice(1, 4), slice(4, 7)):
        out, before_Bd = smooth(c_BNd[:, piece], *(x[:, piece] for x in rows), null_Bd, before_Bd)
        pieces.append(out)
    np.testing.assert_allclose(np.concatenate(pieces, axis=1), got_BNd, rtol=1e-5, atol=1e-6)


def test_gradients_of_a_mixture_stay_in_their_document():
    rows = [np.array([x], np.float32 if name == "p" else bool) for name, x in SLOTS.items()]

    def at(slot, c_BNd, p_BN):
        return smooth(c_BNd, p_BN, *rows[1:], vectors(1, 4) + 1)[0][:, slot].sum()

    for slot, reached in ((3, [0, 2, 3]), (6, [4, 6]), (5, [5]), (1, [1])):
        of_c, of_p = jax.grad(at, argnums=(1, 2))(slot, vectors(1, 7, 4), rows[0])
        assert np.flatnonzero(of_c[0].any(-1)).tolist() == reached
        # A clamped weight has no gradient.
        inside = [n for n in reached if SLOTS["commit"][n] and SLOTS["p"][n] < 1]
        assert np.flatnonzero(of_p[0]).tolist() == inside


def ratio_of(p, asked, n):
    """Of one document, times its positions."""
    f, g = np.mean(asked), np.mean(p)
    return len(p) * n / (n - 1) * ((1 - f) * (1 - g) + (n - 1) * f * g)


@pytest.mark.parametrize("name", ("learned-stride", "learned-whitespace"))
def test_the_gradient_is_the_slope_of_the_formulas(name):
    """Central differences of the float64 loops along directions in each part; decisions stay, as their masks do."""
    config = tiny.config(COMBINATIONS[name])
    w, definition = tiny.weights(config), weights.abstract(config)[0]
    mix_V = np.random.default_rng(1).normal(size=REAL)
    valid_BL = TOKENS_BL != tiny.PAD

    def value(params):
        output = weights.merge(definition, {**w, "params": params})(TOKENS_BL)
        logits_BL = output.logits_BLV[..., :REAL] @ jnp.asarray(mix_V, jnp.float32)
        of_ratio = loss.ratio(output.layout, TARGET)
        return jnp.where(valid_BL, logits_BL, 0.0).sum() + of_ratio, (output.layout, of_ratio)

    gradient, (layout, of_ratio) = jax.jit(jax.grad(value, has_aux=True))(w["params"])
    layout = jax.device_get(layout)
    documents = [(r, a, b) for r, tokens in enumerate(TOKENS_BL) for a, b in spans(tokens.tolist())]
    trusted = {}

    def reference(params):
        oracle, total, ratios = Reference(config, {**w, "params": params}), 0.0, 0.0
        for r, a, b in documents:
            tokens, masks = TOKENS_BL[r, a:b], (layout.commit_BL[r, a:b], layout.scratchpad_BL[r, a:b])
            h = oracle.states(tokens)
            p = oracle.boundaries(h)
            at = trusted.setdefault((r, a), oracle.confidence(p, masks[0]))
            valid = valid_BL[r, a:b]
            logits = oracle.of_states(h, tokens, *masks, at)[0]
            total += (logits[..., :REAL] @ mix_V)[valid].sum()
            ratios += ratio_of(p[valid], layout.boundary_BL[r, a:b][valid] > 0.5, TARGET)
        return total, ratios

    assert float(of_ratio) == pytest.approx(reference(w["params"])[1], rel=1e-5)
    assert layout.suppressed_commits_B.sum() > 0 or name == "learned-whitespace"
    rng = np.random.default_rng(2)
    parts = [("router", "q"), ("router", "k"), ("encoder", "embedding"), ("decoder", "null"), ("decoder", "context")]
    parts += [("decoder", "residual")] * (config.model.decoder.residual == "projected")
    for part, leaf in parts:
        tree = w["params"][part]
        random = jax.tree.map(lambda x: rng.normal(size=x.shape), tree[leaf])
        inner = sum(jax.tree.leaves(jax.tree.map(lambda g, x: (np.asarray(g) * x).sum(), gradient[part][leaf], random)))
        ahead, behind = (
            jax.tree.map(lambda x, y, step=step: np.asarray(x, np.float64) + step * y, tree[leaf], random)
            for step in (1e-6, -1e-6)
        )
        values = [sum(reference({**w["params"], part: {**tree, leaf: moved}})) for moved in (ahead, behind)]
        slope = (values[0] - values[1]) / 2e-6
        assert inner == pytest.approx(slope, rel=2e-3, abs=2e-3), (part, leaf)


def test_the_ratio_loss_is_one_at_its_target_and_lowest_there():
    """Of one document of 8 bytes whose probabilities are 1 or 0, at a target of 4 bytes."""
    tokens_BL = np.full((1, 8), 97)
    for asked, wanted in ((2, 1.0), (4, 4 / 3 * (0.25 + 0.75)), (8, 4.0)):
        p_BL = (np.arange(8) < asked).astype(np.float32)[None]
        config = tiny.config({"patching.kind": "learned"})
        layout = tiny.decide(config, tokens_BL, 4 * p_BL)
        assert float(loss.ratio(layout, 4)) == pytest.approx(8 * wanted)
