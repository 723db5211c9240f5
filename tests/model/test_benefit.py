"""What a scratchpad saves: by hand, against a model that is a formula, and as training learns it.

Legend: B rows, L positions, H bytes that a benefit is counted over, V vocabulary.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch import config as config_lib
from scratchpatch.errors import UserError
from scratchpatch.model import benefit, loss as loss_lib, predictors, weights as weights_lib
from scratchpatch.model.steps import Steps
from scratchpatch.patching import layout as layout_lib, scores
from scratchpatch.patching.scores import Signals
from tests import tiny
from tests.tiny import BOS, PAD

BOTH = {"model.benefit.width": 8, "model.benefit.table": True, "model.benefit.share": 1.0}


def stale(config, tokens_BL):
    rows, start = tiny.rows(tokens_BL), layout_lib.initial_thresholds(config)
    return layout_lib.decide(config, rows, Signals(jnp.zeros(tokens_BL.shape)), start, scratchpads=False)


class Formula:
    """A model whose loss is a tenth of the age of a byte's context in nats, above a floor: ln(264) for every byte."""

    def __init__(self, config):
        self.config = config

    def pooling(self, h_BLd, layout):
        return jnp.zeros((*layout.slots.end_BN.shape, 1))

    def trunk(self, pooled_BND, layout):
        return pooled_BND

    def decoder(self, h_BLd, z_BND, layout):
        slots, rows = layout.slots, layout.rows
        end_BM = jnp.pad(slots.end_BN, ((0, 0), (0, 1)))
        n_L = jnp.arange(rows.tokens_BL.shape[1])
        end_BL = jnp.take_along_axis(end_BM, slots.context_BL, axis=1)
        age_BL = jnp.where(slots.context_BL == slots.end_BN.shape[1], rows.offset_BL + 1, n_L - end_BL)
        # All bytes but the one that comes, an 'a', take part in equal shares.
        return jnp.zeros((*age_BL.shape, 264)).at[..., ord("a")].set(-age_BL / 10)


@functools.cache
def formula(horizon: int, patch_bytes: int):
    fields = {"model.benefit.horizon": horizon, "patching.patch_bytes": patch_bytes, "trigger.kind": "none"}
    return Formula(tiny.config(fields))


def nats_of_age(age: int, target: int) -> float:
    """What `Formula` loses on a target; nothing at PAD."""
    return (target != PAD) * (math.log(263 + math.exp(-age / 10)) + (target == ord("a")) * age / 10)


@pytest.mark.parametrize("phase", range(3))
def test_a_benefit_is_what_the_bytes_until_the_next_scratchpad_save(phase):
    model = formula(3, 8)
    tokens_BL = np.full((1, 24), ord("a"), np.int32)
    targets_BL = np.full((1, 24), ord("a"), np.int32)
    tokens_BL[0, 12] = targets_BL[0, 11] = BOS
    tokens_BL[0, 22:] = targets_BL[0, 21:] = PAD
    base = stale(model.config, tokens_BL)
    commits = np.flatnonzero(base.commit_BL[0]).tolist()
    assert commits == [7, 19]
    h_BLd, phase_B = jnp.zeros((1, 24, 1)), jnp.array([phase])
    got_BL, known_BL = benefit.measure(model, h_BLd, base, jnp.asarray(targets_BL), phase_B)
    wanted = [n for n in range(22) if n % 3 == phase and n not in commits]
    assert np.flatnonzero(known_BL[0]).tolist() == wanted
    for n in wanted:
        start = max(end for end in (0, 8, 12, 20) if end <= n)
        patch = next(end for end in (8, 12, 20, 22) if end > n)
        # Without scratchpads a context is as old as the patch (its commit stood right before), or as the document.
        reads = [m for m in range(n, min(n + 3, patch)) if m not in commits]
        target = targets_BL[0].tolist()
        saved = sum(nats_of_age(m - start + 1, target[m]) - nats_of_age(m - n, target[m]) for m in reads)
        assert got_BL[0, n] == pytest.approx(saved, abs=2e-5)


def test_all_phases_together_are_every_byte():
    model, tokens_BL = formula(4, 8), np.full((2, 30), ord("a"), np.int32)
    base, h_BLd = stale(model.config, tokens_BL), jnp.zeros((2, 30, 1))
    all_BL = benefit.measure_all(model, h_BLd, base, jnp.asarray(tokens_BL))
    for phase in range(4):
        one_BL, known_BL = benefit.measure(model, h_BLd, base, jnp.asarray(tokens_BL), jnp.full(2, phase))
        np.testing.assert_allclose(all_BL[known_BL], one_BL[known_BL], atol=1e-6)
    assert not np.asarray(all_BL)[np.asarray(base.commit_BL)].any() and (all_BL[:, 1] > 0.3).all()


def test_ages_are_powers_of_two_and_a_score_is_positive():
    assert scores.age(jnp.array([0, 1, 2, 3, 4, 7, 8, 63, 64, 5000])).tolist() == [0, 0, 1, 1, 2, 2, 3, 5, 6, 6]
    x_BLM = jnp.array([[[0.0, 2.0, -2.0, 9.0, 9.0, 9.0, -1e9]] * 3])
    got_BL = scores.benefit(x_BLM, jnp.array([[1, 3, 500]]))
    np.testing.assert_allclose(got_BL, [[1.0, math.e, math.exp(-30)]], rtol=1e-6)
    np.testing.assert_allclose(scores.benefit(x_BLM[..., :1], jnp.array([[1, 3, 500]])), [[1.0] * 3])


def test_a_table_by_hand():
    table = predictors.Dependence()
    np.testing.assert_array_equal(table.deviations(), np.zeros(1 << 16))
    token_BL, before_BL = jnp.array([[98, 99, 98]]), jnp.array([[97, 98, 256]])
    assert predictors.pair(token_BL, before_BL).tolist() == [[97 * 256 + 98, 98 * 256 + 99, 98]]
    table.count.set_value(jnp.zeros(1 << 16).at[97 * 256 + 98].set(48.0).at[98 * 256 + 99].set(16.0))
    table.nats.set_value(jnp.zeros(1 << 16).at[97 * 256 + 98].set(96.0).at[98 * 256 + 99].set(-16.0))
    # The mean of all is 80 / 64 = 1.25; sixteen of it are added to each pair.
    means = np.array([(96 + 20) / 64, (-16 + 20) / 32, 1.25])
    mean = (48 * means[0] + 16 * means[1]) / 64
    deviation = math.sqrt((48 * (means[0] - mean) ** 2 + 16 * (means[1] - mean) ** 2) / 64)
    table.entropy.set_value(jnp.array([4.0, 8.0, 25.0]))  # mean 2, deviation 1.5
    got_BL = table.score(0.5, jnp.array([[2.0, 5.0, 0.5]]), token_BL, before_BL)
    np.testing.assert_allclose(got_BL[0], [0, 2, -1] + 0.5 * (means - mean) / deviation, rtol=1e-5)


def test_running_sums_forget():
    old = {"benefit_head": {"moments": jnp.array([1000.0, 10.0, 20.0])}}
    total = {"benefit_count": jnp.float32(8), "learned_sum": jnp.float32(2), "learned_squares": jnp.float32(3)}
    new = benefit.carried(old, total)["benefit_head"]["moments"]
    np.testing.assert_allclose(new, [999 + 8, 9.99 + 2, 19.98 + 3], rtol=1e-6)


@functools.cache
def learnt(dtype: str = "float32"):
    """(weights, gradient of the squared error, sums, tokens) of a tiny model."""
    made = tiny.config(BOTH | {"trigger.kind": "learned", "training.dtype": dtype, "trigger.threshold": 1.1})
    definition, _ = weights_lib.abstract(made)
    weights, tokens_BM = tiny.weights(made), tiny.batch(rows=2)
    rest = {part: x for part, x in weights.items() if part != "params"}

    def error(params):
        model = weights_lib.merge(definition, {"params": params, **rest})
        fixed = weights_lib.merge(definition, {"params": jax.lax.stop_gradient(params), **rest})
        return benefit.learn(fixed, model(tokens_BM[:, :-1]), tokens_BM[:, 1:])

    (value, total), gradient = jax.jit(jax.value_and_grad(error, has_aux=True))(weights["params"])
    return made, weights, value, jax.device_get(total), jax.device_get(gradient), tokens_BM


@pytest.mark.parametrize("dtype", ("float32", "bfloat16"))
def test_the_head_alone_has_gradients(dtype):
    _, _, value, total, gradient, _ = learnt(dtype)
    assert value > 0 and total["benefit_count"] > 10
    for path, leaf in weights_lib.named(gradient, ".").items():
        assert np.isfinite(leaf).all()
        assert (np.abs(leaf).sum() > 0) == path.startswith("benefit_head."), path


def test_sums_are_of_what_was_measured():
    made, weights, value, total, _, tokens_BM = learnt()
    output = tiny.forward(made)(weights, tokens_BM[:, :-1])
    model = weights_lib.merge(weights_lib.abstract(made)[0], weights)
    rows = output.layout.rows
    phase_B = jnp.where(rows.valid_BL, rows.tokens_BL, 0).sum(axis=1) % 4
    measured_BL, known_BL = jax.device_get(model.measure(output.hidden_BLd, output.layout, tokens_BM[:, 1:], phase_B))
    assert total["benefit_count"] == known_BL.sum()
    y = measured_BL[known_BL].astype(np.float64)
    n_L = np.arange(tokens_BM.shape[1] - 1)
    age_BL = np.asarray(scores.age(n_L - output.layout.patch_start_BL + 1))
    own_BL = np.take_along_axis(np.asarray(output.predicted_BLM), age_BL[..., None], axis=-1)[..., 0]
    assert value == pytest.approx(((own_BL[known_BL] - y) ** 2).sum(), rel=1e-4)
    assert total["benefit"] == pytest.approx(y.sum(), rel=1e-4, abs=1e-4)
    sums = {name: float(x) for name, x in total.items() if np.ndim(x) == 0}
    for name, x_BL in (("learned", own_BL), ("entropy", np.asarray(output.entropy_BL))):
        wanted = np.corrcoef(x_BL[known_BL], y)[0, 1]
        assert benefit.correlation(sums, name) == pytest.approx(wanted, abs=2e-3)
    count_K, nats_K = total["benefit_pairs"]
    assert count_K.sum() == known_BL.sum() and nats_K.sum() == pytest.approx(y.sum(), rel=1e-4, abs=1e-4)
    r, n = np.argwhere(known_BL & (n_L > 0) & (tokens_BM[:, :-1] < BOS) & (np.roll(tokens_BM[:, :-1], 1, 1) < BOS))[3]
    assert count_K[tokens_BM[r, n - 1] * 256 + tokens_BM[r, n]] > 0


def test_a_model_that_learns_benefits_is_else_the_same():
    """The same loss of bytes and the same decisions, for an entropy trigger beside a head and a table."""
    plain, with_both = tiny.config(), tiny.config(BOTH)
    weights = tiny.weights(with_both)
    params = {name: x for name, x in weights["params"].items() if name != "benefit_head"}
    tokens_BL = tiny.batch()[:, :-1]
    one = tiny.forward(plain)({"params": params, "thresholds": weights["thresholds"]}, tokens_BL)
    two = tiny.forward(with_both)(weights, tokens_BL)
    np.testing.assert_array_equal(one.layout.scratchpad_BL, two.layout.scratchpad_BL)
    np.testing.assert_allclose(one.logits_BLV, two.logits_BLV, atol=1e-5)


def test_what_reads_the_future_is_refused():
    made = tiny.config({"trigger.kind": "oracle"})
    assert not config_lib.is_causal(made)
    definition, abstract = weights_lib.abstract(made)
    with pytest.raises(UserError, match="cannot continue text byte by byte: use 'learned' or 'entropy'"):
        jax.eval_shape(lambda weights: Steps(weights_lib.merge(definition, weights)), abstract)


def test_the_oracle_fires_where_most_is_saved():
    made = tiny.config({"trigger.kind": "oracle", "trigger.threshold": 1.02, "trigger.capacity": 1.0})
    weights, tokens_BL = tiny.weights(made), tiny.batch()[:, :-1]
    output = tiny.forward(made)(weights, tokens_BL)
    x_BL = np.asarray(output.benefit_BLM[..., 0])
    eligible_BL = np.asarray(output.layout.rows.valid_BL & ~output.layout.commit_BL)
    fires_BL = eligible_BL & (np.exp(x_BL / 2) > 1.02)
    np.testing.assert_array_equal(output.layout.scratchpad_BL, fires_BL)
    assert 3 < fires_BL.sum() < eligible_BL.sum()


def test_loss_adds_the_squared_error():
    made, weights, error, _, _, tokens_BM = learnt()
    definition, _ = weights_lib.abstract(made)
    rest = {part: x for part, x in weights.items() if part != "params"}
    run = jax.jit(lambda params: loss_lib.loss(params, rest, definition, tokens_BM, jnp.float32(10), 1.0))
    value, total = run(weights["params"])
    nats = sum(total[name] for name in ("nats", "end_nats", "head_nats", "head_end_nats"))
    assert value == pytest.approx(float((nats + error) / 10), rel=1e-5)
