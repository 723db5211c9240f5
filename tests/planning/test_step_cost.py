import jax
import pytest

from experiments.scale import sizes
from scratchpatch import config as config_lib
from scratchpatch.accounting import flops
from scratchpatch.model import weights
from scratchpatch.planning.step_cost import step_cost
from tests import tiny

ONE = {"slice": 1, "data": 1, "fsdp": 1, "tensor": 1, "sequence": 1}


def cost(config, parts=1, fused=False, **mesh):
    config = config_lib.from_flat(config_lib.flat(config))
    config.mesh.update(ONE | mesh)
    return step_cost(config, parts, fused)


def test_state_is_twelve_bytes_per_parameter_over_fsdp():
    config = sizes.scratchpads("1b")
    found = cost(config, data=4, fsdp=16)
    count = sum(x.size for x in jax.tree.leaves(weights.abstract(config)[1]["params"]))
    assert found.parameters + found.optimizer == pytest.approx(12 * count / 16, rel=1e-6)


def test_flops_hold_padding_masked_keys_and_recomputation():
    config = tiny.config({"training.remat": "full", "training.batch_rows": 4})
    found, length = cost(config), config.data.window
    assert found.flops == pytest.approx(4 * sum(flops.compiled(config, length).values()) * 4 * length)
    assert found.useful < found.flops
    config.training.remat = "none"
    assert cost(config).flops == pytest.approx(found.flops * 3 / 4)


def test_chips_share_work_and_activations_and_parts_save_the_latter():
    config = tiny.config({"training.batch_rows": 8})
    alone, shared, halves = cost(config), cost(config, data=4), cost(config, parts=2)
    assert shared.flops == alone.flops / 4
    assert shared.activations == pytest.approx(alone.activations / 4, rel=0.05)
    assert halves.activations == pytest.approx(alone.activations / 2, rel=0.05) and halves.flops == alone.flops


def test_recomputation_keeps_less():
    config = tiny.config({"model.trunk.layers": 4})
    kept = {}
    for config.training.remat in ("none", "full"):
        kept[config.training.remat] = cost(config).activations
    assert kept["full"] < 0.5 * kept["none"]


def test_fused_attention_writes_no_logits():
    config = sizes.scratchpads("150m")
    assert cost(config, data=64, fused=True).traffic < 0.7 * cost(config, data=64).traffic


def test_padding_is_the_share_of_slots_that_nothing_fills():
    config = sizes.scratchpads("1b")
    assert cost(config, data=64).padding == pytest.approx(1 - (1 / 16 + 0.22) / (1 / 16 + 0.242), abs=0.001)
    assert cost(sizes.byte("1b"), data=64).padding == 0
