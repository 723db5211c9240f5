"""FLOPs: against XLA's own count, and the shape of the formula."""

import jax
import jax.numpy as jnp
import pytest

from scratchpatch import config as config_lib
from scratchpatch.accounting import flops
from scratchpatch.model import stack
from scratchpatch.model import weights as weights_lib


def wide_config(patchifier="fixed", trigger="entropy", injection="add", pooling="cross_attention", kv_heads=0):
    """Wide enough that matrix products are all but everything."""
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
    config_lib.check(config)
    return config


def xla_flops(config):
    definition, weights = weights_lib.abstract(config)
    tokens_BL = jax.ShapeDtypeStruct((1, config.data.window), jnp.int32)

    def logits(weights, tokens_BL):
        output = weights_lib.merge(definition, weights)(tokens_BL)
        return output.logits_BLV, output.entropy_BL

    with stack.unrolled():
        compiled = jax.jit(logits).lower(weights, tokens_BL).compile()
    return compiled.cost_analysis()["flops"] / config.data.window


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"injection": "cross_attention", "pooling": "mean", "kv_heads": 2},
        {"patchifier": "byte", "trigger": "none", "pooling": "last"},
        {"trigger": "every"},
    ],
    ids=lambda o: "-".join(map(str, o.values())) or "default",
)
def test_compiled_flops_agree_with_xla_within_two_percent(options):
    config = wide_config(**options)
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


def test_useful_never_exceeds_compiled():
    for trigger in ("none", "entropy", "every"):
        config = wide_config(trigger=trigger)
        rate = {"none": 0.0, "entropy": 0.25, "every": 15 / 16}[trigger]
        useful, compiled = flops.useful(config, 1 / 16, rate, 256), flops.compiled(config, 256)
        for tier in useful:
            assert useful[tier] <= compiled[tier] * (1 + 1e-9), (trigger, tier)
