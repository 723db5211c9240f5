"""The model against a NumPy oracle, over patchifiers, triggers, poolings and injections; and its exact limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from scratchpatch import config as config_lib
from scratchpatch.kernels import attention
from scratchpatch.model import stack, weights
from tests import tiny
from tests.evaluation.pieces import random_weights
from tests.model.combinations import BASE, COMBINATIONS
from tests.model.reference import Reference
from tests.patching.reference import spans
from tests.tiny import BOS, PAD

TRUNKLESS = {"model.trunk.kind": "none", "model.entropy_head.weight": 0.0, "trigger.kind": "none"}
TOKENS_BM = tiny.batch()
TOKENS_BL = TOKENS_BM[:, :-1]
VALID_BL = TOKENS_BL != PAD


def run(fields, **thresholds):
    config = tiny.config(fields)
    return tiny.forward(config)(tiny.with_thresholds(tiny.weights(config), **thresholds), TOKENS_BL)


def calls(output) -> np.ndarray:
    return np.asarray(output.layout.commit_BL | output.layout.scratchpad_BL)


@pytest.fixture(scope="module")
def threshold() -> float:
    """The median entropy of the base model: half of the bytes fire."""
    return float(np.median(run(BASE).entropy_BL))


def random(config):
    """`tiny.weights`; a frozen entropy model's logits, too, are far enough apart for entropies to differ."""
    w = tiny.weights(config)
    return w | {"frozen": random_weights(weights.abstract(config)[1]["frozen"])} if "frozen" in w else w


def amid(config, w):
    """Weights with thresholds amid the model's entropies."""
    _, output = tiny.with_gradient(config)(w, TOKENS_BM)
    if output.entropy_BL is None:
        return w
    level = float(np.median(output.entropy_BL[VALID_BL]))
    kinds = config.patching.kind, config.trigger.kind
    patching, trigger = (0.01 if kind == "entropy_jump" else level for kind in kinds)
    return tiny.with_thresholds(w, patching=patching, trigger=trigger)


def equals_the_oracle(config, w, output):
    commit_BL, scratchpad_BL = np.asarray(output.layout.commit_BL), np.asarray(output.layout.scratchpad_BL)
    oracle = Reference(config, w)
    for r, tokens in enumerate(TOKENS_BL):
        for a, b in spans(tokens.tolist()):
            wanted = oracle.document(tokens[a:b], commit_BL[r, a:b], scratchpad_BL[r, a:b])
            got = output.logits_BLV, output.head_logits_BLV, output.entropy_BL
            for x, y, tolerance in zip(got, wanted, (2e-4, 2e-4, 1e-4), strict=True):
                assert (x is None) == (y is None)
                if x is not None:
                    valid = VALID_BL[r, a:b]
                    np.testing.assert_allclose(x[r, a:b][valid], y[valid], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", COMBINATIONS)
def test_equals_the_numpy_oracle_and_its_gradient_is_finite(name):
    config = tiny.config(COMBINATIONS[name])
    w = amid(config, random(config))
    gradient, output = tiny.with_gradient(config)(w, TOKENS_BM)
    assert output.layout.commit_BL.sum() > 5
    assert (output.layout.scratchpad_BL.sum() > 5) == (config.trigger.kind != "none")
    equals_the_oracle(config, w, output)

    # Where every byte is a slot, none reads the null context; a patch of one byte needs no pooling; the softmax over
    # one vector is 1.
    idle = {
        "byte-none": ("null", "pooling/q", "pooling/k", "pooling/v", "pooling/o"),
        "entropy_jump-every": ("null",),
        "byte-none, max_query": ("null", "pooling/query_norm", "pooling/q/", "pooling/k"),
        "entropy-every": ("null",),
        "fixed-whitespace": ("cross/norm", "cross/q", "cross/k"),
    }
    for path, g in jax.tree_util.tree_leaves_with_path(gradient):
        path = "/".join(part.key for part in path)
        assert np.isfinite(g).all(), path
        assert (np.abs(g).max() > 0) != any(part in path for part in idle.get(name, ())), path


@pytest.mark.parametrize(
    "fields",
    [
        {"model.decoder.layers": 2, "model.encoder.ngrams": (3,), "model.encoder.ngram_rows": 50},
        {"model.encoder.layers": 2, "model.decoder.layers": 0, "model.norm_eps": 0.05, "model.target_rows": 260},
    ],
    ids=["n-grams", "encoder alone"],
)
def test_without_a_trunk_equals_the_numpy_oracle(fields):
    config = tiny.config(TRUNKLESS | fields)
    w = tiny.weights(config)
    gradient, output = tiny.with_gradient(config)(w, TOKENS_BM)
    equals_the_oracle(config, w, output)
    assert output.pooled_BND is None and output.trunk_BND is None and not calls(output).any()
    assert config_lib.slots(config) == (0, 0) and output.layout.slots.end_BN.shape[1] == 0
    assert set(w["params"]) == {"encoder", "decoder"} and not w["thresholds"]
    for g in jax.tree.leaves(gradient):
        assert np.isfinite(g).all() and np.abs(g).max() > 0


def test_a_separate_entropy_model_is_a_model_without_a_trunk_and_frozen():
    config = tiny.config(COMBINATIONS["entropy_and_jump-entropy_jump"])
    w, alone = random(config), config_lib.entropy_model(config)
    assert set(w) == {"params", "thresholds", "frozen"} and set(w["frozen"]) == {"entropy_model"}
    assert "entropy_model" not in w["params"]
    merged = weights.merge(weights.abstract(alone)[0], {"params": w["frozen"]["entropy_model"], "thresholds": {}})
    entropy_BL = jax.jit(lambda tokens_BL: merged(tokens_BL).entropy_BL)(TOKENS_BL)
    np.testing.assert_allclose(tiny.forward(config)(w, TOKENS_BL).entropy_BL, entropy_BL, rtol=1e-5, atol=1e-5)


def test_entropies_computed_before_take_the_place_of_a_models_own(threshold):
    config = tiny.config(BASE)
    definition, _ = weights.abstract(config)
    w = tiny.with_thresholds(tiny.weights(config), trigger=threshold)
    own = tiny.forward(config)(w, TOKENS_BL)
    given_BL = np.where(np.arange(TOKENS_BL.shape[1]) % 2, 1e3, 0.0).astype(np.float32) * np.ones_like(own.entropy_BL)
    run = jax.jit(lambda w, e: weights.merge(definition, w)(TOKENS_BL, entropy_BL=e))
    given = run(w, given_BL)
    assert np.array_equal(given.entropy_BL, given_BL)
    assert (calls(given) == np.asarray(given.layout.commit_BL) | ((given_BL > 1) & VALID_BL)).all()
    same = run(w, own.entropy_BL)
    assert (calls(same) == calls(own)).all()
    np.testing.assert_allclose(same.logits_BLV, own.logits_BLV, rtol=1e-5, atol=1e-5)


def test_trigger_none_is_a_threshold_at_infinity():
    none, infinite = run({"trigger.kind": "none"}), run(BASE, trigger=np.inf)
    assert none.pooled_BND.shape[1] < infinite.pooled_BND.shape[1]
    assert (calls(none) == calls(infinite)).all() and not infinite.layout.scratchpad_BL.any()
    np.testing.assert_allclose(none.logits_BLV, infinite.logits_BLV, rtol=1e-5, atol=1e-5)


def test_a_threshold_of_0_is_a_scratchpad_at_every_byte():
    zero, every = run(BASE, trigger=0.0), run({"trigger.kind": "every"})
    assert (calls(zero) == VALID_BL).all() and (calls(every) == VALID_BL).all()
    np.testing.assert_allclose(zero.logits_BLV, every.logits_BLV, rtol=1e-5, atol=1e-5)


def test_patches_of_one_byte_are_the_byte_level_model():
    one, byte = run({"patching.patch_bytes": 1}), run({"patching.kind": "byte"})
    assert (np.asarray(byte.layout.commit_BL) == VALID_BL).all()
    np.testing.assert_allclose(one.logits_BLV, byte.logits_BLV, rtol=1e-5, atol=1e-5)


def test_every_byte_reads_the_slot_that_stands_at_it_when_all_fire():
    slots = run(BASE, trigger=0.0).layout.slots
    end_BL = np.take_along_axis(
        np.asarray(slots.end_BN), np.minimum(slots.context_BL, slots.end_BN.shape[1] - 1), axis=1
    )
    assert (end_BL == np.arange(TOKENS_BL.shape[1]))[VALID_BL].all()


def keys_and_values(trunk, pooled_BND, slots):
    """What every layer of the trunk projects from its slots: [2, layers, B, N, G * K]."""
    definition, parameters = nnx.split(trunk.stack.block)
    x, keys, values = pooled_BND, [], []

    def attend(q, k, v):
        return attention.staircase(q, k, v, slots.seen_from_BN, slots.seen_to_BN, slots.commits)

    for i in range(trunk.stack.layers):
        layer = nnx.merge(definition, jax.tree.map(lambda p, i=i: p[i], parameters))
        y = layer.attention_norm(x)
        keys.append(layer.attention.k(y))
        values.append(layer.attention.v(y))
        x = layer(x, slots.seen_to_BN - slots.seen_from_BN, attend)
    return jnp.stack([jnp.stack(keys), jnp.stack(values)])


def test_removing_every_scratchpad_leaves_the_commits_bit_identical(threshold):
    config = tiny.config(BASE)
    commits, _ = config_lib.slots(config)
    with_, without = run(BASE, trigger=threshold), run(BASE, trigger=np.inf)
    assert with_.layout.scratchpad_BL.sum() > 20
    assert np.array_equal(with_.pooled_BND[:, :commits], without.pooled_BND[:, :commits])
    assert np.array_equal(with_.trunk_BND[:, :commits], without.trunk_BND[:, :commits])
    assert not np.allclose(with_.logits_BLV, without.logits_BLV, atol=1e-2)

    trunk = weights.merge(weights.abstract(config)[0], tiny.weights(config)).trunk
    project = jax.jit(lambda output: keys_and_values(trunk, output.pooled_BND, output.layout.slots))
    with_, without = project(with_), project(without)
    assert np.array_equal(with_[..., :commits, :], without[..., :commits, :])
    assert not np.array_equal(with_, without)


@pytest.mark.parametrize("fields", [BASE, COMBINATIONS["entropy-entropy_jump"]], ids=["fixed", "controlled"])
def test_a_document_gets_the_same_logits_packed_as_alone(fields, threshold):
    # One row of a batch is one document; nothing else differs between the passes.
    config = tiny.config(fields)
    jump = config.trigger.kind == "entropy_jump"
    w = tiny.with_thresholds(tiny.weights(config), patching=threshold, trigger=0.01 if jump else threshold)
    packed = tiny.forward(config)(w, TOKENS_BL)
    for r in range(len(TOKENS_BL)):
        for a, b in spans(TOKENS_BL[r].tolist()):
            alone_BL = np.full_like(TOKENS_BL, PAD)
            alone_BL[0, : b - a] = TOKENS_BL[r, a:b]
            alone = tiny.forward(config)(w, alone_BL)
            valid = VALID_BL[r, a:b]
            assert (calls(alone)[0, : b - a] == calls(packed)[r, a:b]).all()
            np.testing.assert_allclose(
                alone.logits_BLV[0, : b - a][valid], packed.logits_BLV[r, a:b][valid], rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("remat", ["dots", "ffn", "full"])
def test_remat_changes_no_gradient(threshold, remat):
    w = tiny.with_thresholds(tiny.weights(tiny.config(BASE)), trigger=threshold)
    wanted, _ = tiny.with_gradient(tiny.config(BASE))(w, TOKENS_BM)
    got, _ = tiny.with_gradient(tiny.config({**BASE, "training.remat": remat}))(w, TOKENS_BM)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), got, wanted)


def test_unrolled_layers_give_the_same_logits(threshold):
    config = tiny.config(BASE)
    w = tiny.with_thresholds(tiny.weights(config), trigger=threshold)
    definition, _ = weights.abstract(config)
    with stack.unrolled():
        unrolled = jax.jit(lambda w: weights.merge(definition, w)(TOKENS_BL).logits_BLV)(w)
    np.testing.assert_allclose(unrolled, tiny.forward(config)(w, TOKENS_BL).logits_BLV, rtol=1e-5, atol=1e-5)


def test_bfloat16_activations_keep_float32_parameters_and_logits():
    # Stride decides from no entropy, so both passes hold the same slots.
    fields = {"trigger.kind": "stride", "trigger.stride": 2}
    config = tiny.config({**fields, "training.dtype": "bfloat16"})
    w = tiny.weights(config)
    gradient, _ = jax.eval_shape(tiny.with_gradient(config), w, TOKENS_BM)
    output = tiny.forward(config)(w, TOKENS_BL)
    assert output.hidden_BLd.dtype == output.pooled_BND.dtype == output.trunk_BND.dtype == jnp.bfloat16
    assert output.logits_BLV.dtype == output.head_logits_BLV.dtype == output.entropy_BL.dtype == jnp.float32
    for logits_BLV in (output.logits_BLV, output.head_logits_BLV):
        # Added up in float32, not rounded on the way there.
        assert (logits_BLV[..., :BOS].astype(jnp.bfloat16) != logits_BLV[..., :BOS]).mean() > 0.9
    for path, g in jax.tree_util.tree_leaves_with_path(gradient):
        assert g.dtype == jnp.float32, path
    real = slice(BOS + 1)
    close = np.abs(output.logits_BLV - run(fields).logits_BLV)[VALID_BL][:, real]
    assert close.mean() < 0.05 * np.abs(output.logits_BLV[VALID_BL][:, real]).mean()


def test_pad_and_unused_rows_of_the_table_are_never_predicted():
    logits_BLV = np.asarray(run(BASE, trigger=np.inf).logits_BLV)
    assert (logits_BLV[..., PAD:] == -1e30).all() and np.isfinite(logits_BLV).all()
    assert np.abs(logits_BLV[..., :PAD]).max() < 1e3
