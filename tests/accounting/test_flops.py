"""FLOPs: against XLA's own count, and the shape of the formula."""

import jax
import jax.numpy as jnp
import pytest

from scratchpatch import config as config_lib
from scratchpatch.accounting import flops
from scratchpatch.model import stack
from scratchpatch.model import weights as weights_lib

BLT = {
    "model.encoder.ngrams": (3, 4, 5),
    "model.encoder.ngram_rows": 1000,
    "model.cross_residual": 2,
    "model.trunk.final_norm": False,
    "model.entropy_model.layers": 2,
    "model.entropy_model.window": 64,
    "model.entropy_head.weight": 0.0,
    "patching.commit_bos": True,
    "patching.capacity": 1.0,
}
# Little else beside the pooling, so that 2% of the whole is little of it.
POOLED = {
    "model.trunk.layers": 1,
    "model.encoder.layers": 0,
    "model.decoder.layers": 0,
    "model.entropy_head.weight": 0.0,
}
BYTES = {"model.trunk.kind": "none", "model.entropy_head.weight": 0.0}


def wide_config(
    patchifier="fixed", trigger="entropy", injection="add", pooling="cross_attention", kv_heads=0, fields=None
):
    """Wide enough that matrix products are all but everything; `fields` maps more dotted names to values."""
    config = config_lib.default()
    config.data.window = 256
    config.model.d_byte = 256
    config.model.encoder.window = config.model.decoder.window = 32
    config.model.decoder.injection = injection
    config.model.pooling.kind = pooling
    config.model.trunk.layers = 2
    config.model.trunk.d_model = 512
    config.model.trunk.kv_heads = kv_heads
    config.patching.kind = patchifier
    config.trigger.kind = trigger
    for name, value in (fields or {}).items():
        config_lib.set_field(config, name, value)
    config_lib.check(config)
    return config


def xla_flops(config):
    definition, weights = weights_lib.abstract(config)
    tokens_BL = jax.ShapeDtypeStruct((1, config.data.window), jnp.int32)

    def logits(weights, tokens_BL):
        output = weights_lib.merge(definition, weights)(tokens_BL)
        return output.logits_BLV, output.head_logits_BLV, output.entropy_BL

    with stack.unrolled():
        compiled = jax.jit(logits).lower(weights, tokens_BL).compile()
    return compiled.cost_analysis()["flops"] / config.data.window


VARIANTS = {
    "default": {},
    "cross_attention-mean": {"injection": "cross_attention", "pooling": "mean", "kv_heads": 2},
    "byte-last": {"patchifier": "byte", "trigger": "none", "pooling": "last"},
    "every": {"trigger": "every"},
    "max_query": {"pooling": "max_query"},
    "max_query-3": {"pooling": "max_query", "fields": {"model.pooling.last_state": False, "model.pooling.queries": 3}},
    # Two queries of 256 fill the trunk's 512, four do not.
    "byte-max_query-2": {"patchifier": "byte", "trigger": "none", "pooling": "max_query", "fields": POOLED},
    "byte-max_query-4": {
        "patchifier": "byte",
        "trigger": "none",
        "pooling": "max_query",
        "fields": POOLED | {"model.pooling.queries": 4},
    },
    "blt": {
        "patchifier": "entropy_and_jump",
        "trigger": "none",
        "injection": "cross_attention",
        "pooling": "max_query",
        "fields": BLT,
    },
    "head and entropy model": {
        "fields": {
            "model.entropy_model.layers": 1,
            "model.entropy_model.d_byte": 384,
            "model.entropy_model.ffn_multiplier": 2.0,
        }
    },
    "no trunk": {"trigger": "none", "fields": BYTES},
    "no trunk, n-grams": {"trigger": "none", "fields": BYTES | {"model.encoder.ngrams": (2, 3), "model.encoder.layers": 3}},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_compiled_flops_agree_with_xla_within_two_percent(name):
    config = wide_config(**VARIANTS[name])
    ours = sum(flops.compiled(config, config.data.window).values())
    assert ours == pytest.approx(xla_flops(config), rel=0.02)


def test_trunk_and_pooling_scale_with_trunk_calls():
    config = wide_config()
    config.data.window = 4096
    a, b = (flops.useful(config, 1 / 16, r, 4096) for r in (0.0, 3 / 16))
    assert b["trunk"] == pytest.approx(4 * a["trunk"])
    assert b["encoder"] == a["encoder"]
    assert b["entropy head"] == a["entropy head"]


def test_head_counts_at_inference_only_where_decisions_read_it():
    reads, ignores = wide_config(), wide_config(trigger="stride")
    head = flops.useful(reads, 1 / 16, 0.1, 256)["entropy head"]
    assert flops.flops_per_byte(reads, 1 / 16, 0.1, 256) - flops.flops_per_byte(ignores, 1 / 16, 0.1, 256) == pytest.approx(head)
    assert flops.training_flops_per_byte(reads, 1 / 16, 0.1, 256) == flops.training_flops_per_byte(ignores, 1 / 16, 0.1, 256)


def test_a_frozen_entropy_model_counts_once_and_takes_the_heads_place():
    model = {"model.entropy_model.layers": 2}
    reads, ignores = wide_config(fields=model), wide_config(trigger="stride", fields=model)
    tiers = flops.useful(reads, 1 / 16, 0.1, 256)
    assert flops.inference(reads, 1 / 16, 0.1, 256) == {k: v for k, v in tiers.items() if k != "entropy head"}
    assert not {"entropy head", "entropy model"} & flops.inference(ignores, 1 / 16, 0.1, 256).keys()
    training = flops.training(reads, 1 / 16, 0.1, 256)
    assert training == {k: v * (1 if k == "entropy model" else 3) for k, v in tiers.items()}
    without = {k: v for k, v in training.items() if k != "entropy model"}
    assert flops.training(ignores, 1 / 16, 0.1, 256) == without
    prepared = wide_config(fields=model | {"data.entropies": True})
    assert flops.training(prepared, 1 / 16, 0.1, 256) == without
    assert flops.inference(prepared, 1 / 16, 0.1, 256) == flops.inference(reads, 1 / 16, 0.1, 256)
    # It costs what a plain byte model of its shape costs.
    alone = flops.inference(config_lib.entropy_model(reads), 0, 0, 256)
    assert tiers["entropy model"] == pytest.approx(sum(alone.values()))


def test_look_ups_cost_nothing():
    plain, looked_up = wide_config(), wide_config(fields={"model.encoder.ngrams": (3, 4, 5)})
    assert flops.useful(plain, 1 / 16, 0.1, 256) == flops.useful(looked_up, 1 / 16, 0.1, 256)


def test_without_a_trunk_there_are_two_tiers():
    bytes_alone = wide_config(trigger="none", fields=BYTES)
    with_trunk = flops.useful(wide_config(), 0.0, 0.0, 256)
    found = flops.useful(bytes_alone, 0.0, 0.0, 256)
    assert found == {tier: with_trunk[tier] for tier in ("encoder", "decoder")}
    assert flops.inference(bytes_alone, 0.0, 0.0, 256) == found


def test_useful_never_exceeds_compiled():
    for trigger in ("none", "entropy", "every"):
        config = wide_config(trigger=trigger)
        rate = {"none": 0.0, "entropy": 0.25, "every": 15 / 16}[trigger]
        useful, compiled = flops.useful(config, 1 / 16, rate, 256), flops.compiled(config, 256)
        for tier in useful:
            assert useful[tier] <= compiled[tier] * (1 + 1e-9), (trigger, tier)
