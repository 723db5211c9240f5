import math

import jax
import jax.numpy as jnp
import pytest

from experiments.scale import sizes
from scratchpatch import config as config_lib
from scratchpatch.accounting import chips
from scratchpatch.config_fields import REMAT
from scratchpatch.kernels import attention
from scratchpatch.model import loss as loss_lib, weights
from scratchpatch.planning import plan, step_cost as step_cost_lib
from scratchpatch.planning.step_cost import step_cost
from tests import tiny

ONE = {"slice": 1, "data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}


def cost(config, parts=1, platform="tpu", **mesh):
    config = config_lib.from_flat(config_lib.flat(config))
    config.mesh.update(ONE | mesh)
    with attention.platform(platform):
        return step_cost(config, parts)


def multiplied(jaxpr) -> float:
    """FLOPs of the products of a traced program; a scan's as often as it turns, a loop's once."""
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
        times = equation.params.get("length", 1) if equation.primitive.name == "scan" else 1
        for value in equation.params.values():
            for inner in value if isinstance(value, tuple | list) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    total += times * multiplied(inner)
    return total


@pytest.fixture
def no_activations(monkeypatch):
    """Counting activations traces the model, which takes seconds."""
    monkeypatch.setattr(step_cost_lib, "_kept", lambda *_: 0)


@pytest.mark.usefixtures("no_activations")
def test_state_is_twelve_bytes_per_parameter_over_fsdp():
    config = sizes.scratchpads("1b")
    found = cost(config, data=4, fsdp=16)
    count = sum(x.size for x in jax.tree.leaves(weights.abstract(config)[1]["params"]))
    assert found.parameters + found.optimizer == pytest.approx(12 * count / 16, rel=1e-6)


TIERS = {
    "added": {},
    "crossed": {
        "model.decoder.injection": "cross_attention",
        "model.decoder.context_vectors": 2,
        "model.decoder.layers": 2,
        "model.pooling.kind": "max_query",
    },
    "grouped": {
        "model.trunk.kv_heads": 1,
        "model.encoder.layers": 3,
        "patching.kind": "byte",
        "trigger.kind": "none",
    },
}


@pytest.mark.usefixtures("no_activations")
@pytest.mark.parametrize(
    "remat, tiers",
    [("none", "added"), ("dots", "crossed"), ("ffn", "grouped"), ("full", "crossed"), ("full", "grouped")],
)
def test_flops_are_those_of_the_traced_gradient_padding_masked_keys_and_recomputation_included(remat, tiers):
    config = tiny.config({"training.remat": remat, "training.batch_rows": 2, **TIERS[tiers]})
    definition, w = weights.abstract(config)
    tokens_BM = jax.ShapeDtypeStruct((2, config.data.window + 1), jnp.int32)

    def gradient(params, w, tokens_BM):
        rest = {part: x for part, x in w.items() if part != "params"}
        return jax.grad(lambda p: loss_lib.loss(p, rest, definition, tokens_BM, 1.0, 1.0)[0])(params)

    traced = multiplied(jax.make_jaxpr(gradient)(w["params"], w, tokens_BM).jaxpr)
    planned = cost(config)
    assert planned.flops == pytest.approx(traced, rel=0.03)
    assert planned.useful < planned.flops


def test_chips_share_work_and_activations_and_parts_save_the_latter():
    config = tiny.config({"training.batch_rows": 8})
    alone, shared, halves = cost(config), cost(config, data=4), cost(config, parts=2)
    assert shared.flops == alone.flops / 4
    assert shared.activations == pytest.approx(alone.activations / 4, rel=0.05)
    assert halves.activations == pytest.approx(alone.activations / 2, rel=0.05) and halves.flops == alone.flops


def test_what_is_computed_again_is_not_kept():
    config, found = tiny.config({"model.trunk.layers": 4}), {}
    for config.training.remat in REMAT:
        found[config.training.remat] = cost(config)
    kept = {name: x.activations for name, x in found.items()}
    assert kept["none"] > 1.5 * kept["dots"] and kept["dots"] > 1.2 * kept["ffn"] and kept["ffn"] > 1.2 * kept["full"]
    # What would be kept on the chip is sent to the host instead.
    assert kept["offload"] == kept["full"] and found["offload"].offloaded == kept["ffn"] - kept["full"]
    assert [found[name].offloaded for name in ("none", "dots", "ffn", "full")] == [0] * 4


@pytest.mark.usefixtures("no_activations")
def test_kernels_write_no_logits_and_their_forward_pass_is_repeated_where_all_is():
    config = sizes.scratchpads("150m")
    in_kernels = cost(config, platform="tpu", data=64)
    config.kernels.staircase = config.kernels.window = "xla"
    assert in_kernels.traffic < 0.7 * cost(config, platform="tpu", data=64).traffic
    config.kernels.staircase = config.kernels.window = "auto"
    config.training.remat = "dots"
    once = cost(config, platform="tpu", data=64)
    # Encoder, decoder, trunk and entropy head: three passes each, and a fourth.
    assert (len(in_kernels.kernels), len(once.kernels)) == (16, 12)


@pytest.mark.usefixtures("no_activations")
def test_a_step_that_was_measured_took_no_less_time_than_is_planned_and_not_twice_as_much():
    """sp_150m on one H200, 8 rows, all recomputed: 108 ms a step, 224 TFLOP/s of useful FLOPs (BUILD.md)."""
    config = sizes.scratchpads("150m")
    config.training.batch_rows = 8
    config.mesh.update(ONE)
    planned = plan.plan_device(config, chips.named("h200"), 1, policies=False)
    assert 0.5 * 0.108 < planned["seconds_estimate"] < 0.108
    assert planned["useful_flops_per_chip"] / 0.108 == pytest.approx(224e12, rel=0.05)


@pytest.mark.usefixtures("no_activations")
def test_padding_is_the_share_of_slots_that_nothing_fills():
    config = sizes.scratchpads("1b")
    assert cost(config, data=64).padding == pytest.approx(1 - (1 / 16 + 0.22) / (1 / 16 + 0.242), abs=0.001)
    assert cost(sizes.byte("1b"), data=64).padding == 0
