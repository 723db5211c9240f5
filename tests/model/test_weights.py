import jax
import numpy as np
import pytest

from scratchpatch.errors import UserError
from scratchpatch.model import weights
from tests import runs, tiny


def test_split_and_merge_are_inverse_and_abstract_has_the_same_shapes():
    config = tiny.config()
    made = weights.init(config, seed=0)
    definition, abstract = weights.abstract(config)
    jax.tree.map(lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)), made, abstract)
    again = weights.split(weights.merge(definition, made))
    jax.tree.map(np.testing.assert_array_equal, again[1], made)
    assert set(made) == {"params", "thresholds"}
    assert {k: float(v) for k, v in made["thresholds"].items()} == pytest.approx(
        {"patching_threshold": 1.335, "trigger_threshold": 1.5}
    )


BLT = {
    "model.encoder.ngrams": (3, 4),
    "model.pooling.kind": "max_query",
    "model.decoder.injection": "cross_attention",
    "model.cross_residual": 2,
}


@pytest.mark.parametrize(
    "fields",
    [{}, BLT, runs.WITH_ENTROPY_MODEL, runs.ENTROPY_MODEL],
    ids=["own", "blt", "separate", "bytes"],
)
def test_definitions_are_keys_that_know_no_thresholds(fields):
    """Compiled programs are kept by them."""
    one, other = (weights.abstract(tiny.config(fields | {"trigger.threshold": nats}))[0] for nats in (1.0, 2.0))
    assert {one: "program"}[other] == "program"
    changed, _ = weights.abstract(tiny.config(fields | {"model.norm_eps": 1e-3}))
    assert changed != one


def test_the_seed_alone_decides_the_weights():
    config = tiny.config()
    one, same, other = (weights.init(config, seed)["params"] for seed in (1, 1, 2))
    jax.tree.map(np.testing.assert_array_equal, one, same)
    assert not np.array_equal(one["encoder"]["embedding"]["embedding"], other["encoder"]["embedding"]["embedding"])


def test_a_fresh_model_predicts_evenly():
    made = tiny.config({"trigger.kind": "none"})
    output = tiny.forward(made)(weights.init(made, 0), tiny.batch()[:, :-1])
    assert np.abs(output.entropy_BL - np.log(257)).max() < 0.05


def test_result_projections_start_smaller_the_deeper_their_stack():
    """By (2 x layers)^-0.5, against 1 over the square root of their inputs; every stack by its own depth."""
    depths = {"encoder": 1, "entropy_head": 2, "trunk": 3, "decoder": 4}
    fields = {f"model.{part}.layers": depth for part, depth in depths.items()}
    made = tiny.config(fields | {"model.d_byte": 32, "model.decoder.injection": "cross_attention"})
    seen = set()
    for path, kernel in weights.named(weights.random(made, 0)["params"], "/").items():
        if not path.endswith("kernel") or "stack" not in path:
            continue
        wanted = (2 * depths[path.split("/")[0]]) ** -0.5 if path.split("/")[-2] in ("o", "down") else 1.0
        assert np.std(kernel) * kernel.shape[-2] ** 0.5 == pytest.approx(wanted, rel=0.06), path
        seen.add(wanted)
    assert len(seen) == 5


def test_redefine_follows_a_changed_threshold_and_keeps_a_trained_one():
    old = tiny.config()
    made = weights.init(old, 0)
    made["thresholds"]["patching_threshold"] = np.float32(3.25)
    _, changed = weights.redefine(
        tiny.config({"trigger.threshold": 0.5, "trigger.capacity": 1.0}), made, named=["trigger.threshold"]
    )
    assert changed["thresholds"] == {"patching_threshold": np.float32(3.25), "trigger_threshold": np.float32(0.5)}
    assert changed["params"] is made["params"]


def test_redefine_refuses_other_parameters_and_names_them():
    old = tiny.config()
    with pytest.raises(UserError, match=r"params/decoder/stack.*only patching"):
        weights.redefine(tiny.config({"model.decoder.injection": "cross_attention"}), weights.init(old, 0))


def test_the_null_context_starts_small():
    """Beside slots of deviation 1 it says next to nothing."""
    null_D = tiny.weights(tiny.config())["params"]["decoder"]["null"]
    assert 0.01 < float(null_D.std()) < 0.03
