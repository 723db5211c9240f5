import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch import config as config_lib
from scratchpatch.model import loss, weights
from scratchpatch.vocabulary import BYTES
from tests import tiny
from tests.patching import reference
from tests.tiny import BOS, PAD

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

    return jax.jit(run)


def evaluate(rows):
    """(loss, sums) of the named rows of the batch; the others are PAD."""
    tokens_BM = np.where(np.isin(np.arange(3), rows)[:, None], TOKENS_BM, PAD)
    value, total = compiled()(tiny.weights(CONFIG), tokens_BM)
    return float(value), {k: float(v) for k, v in total.items()}


def test_nats_are_the_negative_log_probability_and_0_at_pad():
    logits_BLV = np.full((1, 3, BYTES.rows), -1e30, np.float32)
    logits_BLV[..., [7, BOS]] = np.log([0.25, 0.75])
    got = loss.nats(jnp.asarray(logits_BLV), jnp.array([[7, BOS, PAD]]), BYTES)
    np.testing.assert_allclose(got, [[math.log(4), math.log(4 / 3), 0.0]], rtol=1e-6)


def test_targets_are_bytes_and_ends_of_documents():
    assert int(loss.count_targets(jnp.array([[BOS, 1, 2, BOS, PAD, PAD]]), BYTES)) == 3


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
    counted = loss.keys(CONFIG, output.layout)
    assert {name: total[name] for name in counted} == {name: float(value) for name, value in counted.items()}
    assert total["commits"] == np.asarray(output.layout.commit_BL).sum()
    assert total["scratchpads"] == np.asarray(output.layout.scratchpad_BL).sum() > 0


@pytest.mark.parametrize("scope", ["document", "patch"])
def test_keys_are_those_that_a_loop_over_short_documents_counts(scope):
    windows = {"model.encoder.window": 5, "model.decoder.window": 11, "model.entropy_model.window": 3}
    # A small budget leaves patches longer than the 4 bytes that pooling reads.
    patches = {"patching.kind": "entropy", "patching.max_patch_bytes": 4, "patching.capacity": 0.15}
    config = tiny.config(windows | patches | {"model.entropy_model.layers": 1, "model.decoder.scope": scope})
    rng, length = np.random.default_rng(2), 80
    inside, whole = tiny.pack(rng, [3, 9, 14, 20], length, inside=True, pad=9), tiny.pack(rng, [1, 0, 12, 40], length)
    tokens_BL = np.stack([inside, whole])
    entropy_BL = (rng.random(tokens_BL.shape) * 4).astype(np.float32)

    def count(tokens_BL, entropy_BL):
        return loss.keys(config, tiny.decide(config, tokens_BL, entropy_BL))

    counted = jax.jit(count)(tokens_BL, entropy_BL)
    wanted, longest = dict.fromkeys(counted, 0), 0
    for tokens, entropy in zip(tokens_BL.tolist(), entropy_BL, strict=True):
        documents = reference.decide(config, tokens, entropy, 1.335, 1.5)
        for document, (a, b) in zip(documents, reference.spans(tokens), strict=True):
            commits, patch_start, segment_start = 0, 0, 0
            for n in range(b - a):
                if tokens[a + n] == PAD:
                    continue
                if scope == "patch" and document.commit[n]:
                    segment_start = n
                for name, window in (("encoder_keys", 5), ("entropy_keys", 3)):
                    wanted[name] += min(n + 1, window)
                wanted["decoder_keys"] += min(n - segment_start + 1, 11)
                if document.commit[n] or document.scratchpad[n]:
                    wanted["trunk_keys"] += commits + 1
                    wanted["pool_keys"] += min(n - patch_start + 1, 4)
                    longest = max(longest, n - patch_start + 1)
                if document.commit[n]:
                    commits, patch_start = commits + 1, n + 1
    assert {name: float(value) for name, value in counted.items()} == wanted and longest > 4


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


def test_a_budget_that_refuses_patches_leaves_out_no_target():
    """As little as one commit in eight bytes: SpaceByte's own code would ignore the targets behind the last patch."""
    fields = {"patching.kind": "whitespace", "patching.capacity": 1 / 8, "model.decoder.injection": "at_slot"}
    config = tiny.config(fields | {"trigger.kind": "none", "model.entropy_head.weight": 0.0})
    tokens_BL, targets_BL = TOKENS_BM[:, :-1], TOKENS_BM[:, 1:]
    output = tiny.forward(config)(tiny.weights(config), tokens_BL)
    total = {name: float(x) for name, x in loss.sums(config, output, jnp.asarray(targets_BL)).items()}
    assert total["suppressed_commits"] > 0 and total["commits"] <= config_lib.slots(config)[0] * len(tokens_BL)
    assert total["bytes"] == (targets_BL < BOS).sum() and total["ends"] == (targets_BL == BOS).sum()
    nats_BL = np.asarray(loss.nats(output.logits_BLV, jnp.asarray(targets_BL), BYTES))
    assert (nats_BL[targets_BL != PAD] > 0).all()
    assert total["nats"] == pytest.approx(nats_BL[targets_BL < BOS].sum(), rel=1e-5)
