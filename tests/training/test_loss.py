import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch.model import weights
from scratchpatch.training import loss
from scratchpatch.vocabulary import BOS, PAD, ROWS
from tests import tiny

# Stride decides from no float: the same rows hold the same slots in any company.
CONFIG = tiny.config({"trigger.kind": "stride", "trigger.stride": 2})
TOKENS_BM = tiny.batch(rows=3)
TARGETS = 123.0  # of the step that these rows are a part of


@functools.cache
def compiled():
    definition, _ = weights.abstract(CONFIG)

    def run(w, tokens_BM):
        value, total = loss.loss(w["params"], {"thresholds": w["thresholds"]}, definition, tokens_BM, TARGETS, 1.0)
        return value, total

    return jax.jit(run, compiler_options=tiny.QUICK)


def evaluate(rows):
    """(loss, sums) of the named rows of the batch; the others are PAD."""
    tokens_BM = np.where(np.isin(np.arange(3), rows)[:, None], TOKENS_BM, PAD)
    value, total = compiled()(tiny.weights(CONFIG), tokens_BM)
    return float(value), {k: float(v) for k, v in total.items()}


def test_nats_are_the_negative_log_probability_and_0_at_pad():
    logits_BLV = np.full((1, 3, ROWS), -1e30, np.float32)
    logits_BLV[..., [7, BOS]] = np.log([0.25, 0.75])
    got = loss.nats(jnp.asarray(logits_BLV), jnp.array([[7, BOS, PAD]]))
    np.testing.assert_allclose(got, [[math.log(4), math.log(4 / 3), 0.0]], rtol=1e-6)


def test_targets_are_bytes_and_ends_of_documents():
    assert int(loss.targets_of(jnp.array([[BOS, 1, 2, BOS, PAD, PAD]]))) == 3


def test_sums_count_every_target_once_and_keep_ends_apart():
    tokens_BL, targets_BL = TOKENS_BM[:, :-1], TOKENS_BM[:, 1:]
    output = tiny.forward(CONFIG)(tiny.weights(CONFIG), tokens_BL)
    logits = np.asarray(output.logits_BLV, np.float64)
    logits -= logits.max(-1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    log_p = np.take_along_axis(log_p, np.minimum(targets_BL, BOS)[..., None], -1)[..., 0]
    _, total = evaluate([0, 1, 2])
    assert total["bytes"] == (targets_BL < BOS).sum() and total["ends"] == (targets_BL == BOS).sum() > 0
    assert total["positions"] == (tokens_BL != PAD).sum()
    assert total["nats"] == pytest.approx(-log_p[targets_BL < BOS].sum(), rel=1e-5)
    assert total["end_nats"] == pytest.approx(-log_p[targets_BL == BOS].sum(), rel=1e-5)
    assert total["commits"] == np.asarray(output.layout.commit_BL).sum()
    assert total["scratchpads"] == np.asarray(output.layout.scratchpad_BL).sum() > 0


def test_parts_add_up_to_the_whole_and_pad_contributes_nothing():
    value, total = evaluate([0, 1, 2])
    parts = [evaluate([r]) for r in range(3)]
    assert sum(v for v, _ in parts) == pytest.approx(value, rel=1e-5)
    for k, v in total.items():
        assert sum(t[k] for _, t in parts) == pytest.approx(v, rel=1e-5), k
    assert evaluate([]) == (0.0, dict.fromkeys(total, 0.0))


def test_the_loss_is_a_share_of_the_whole_steps_targets():
    value, total = evaluate([0, 1, 2])
    nats = sum(total[k] for k in ("nats", "end_nats", "head_nats", "head_end_nats"))
    assert value == pytest.approx(nats / TARGETS, rel=1e-6)
