"""The account of whole configs, the 1B pair above all."""

import jax
import pytest

from experiments.scale import byte_1b, sp_1b
from scratchpatch import config as config_lib
from scratchpatch.accounting import account, chips, kv_cache
from scratchpatch.model import weights as weights_lib


def test_sp_1b_has_a_16x_smaller_cache_and_3_to_4x_less_compute():
    byte, sp = byte_1b.get_config(), sp_1b.get_config()
    twin = account.account(byte)
    for rate in (0.2, 0.22, 0.25, 0.28):
        sp.trigger.rate, sp.trigger.capacity = rate, 0.0
        found = account.account(sp)
        assert twin["kv_bytes_per_byte"] / found["kv_bytes_per_byte"] == 16
        assert 3 <= twin["inference_flops_per_byte"]["total"] / found["inference_flops_per_byte"]["total"] <= 4
    assert 0.9e9 < found["parameters"]["trunk"] < 1.1e9
    assert found["parameters"]["trunk"] == twin["parameters"]["trunk"]


def test_parameters_are_the_models_own():
    config = config_lib.default()
    leaves = jax.tree.leaves(weights_lib.abstract(config)[1]["params"])
    found = account.account(config)["parameters"]
    assert found["total"] == sum(leaf.size for leaf in leaves) == sum(v for k, v in found.items() if k != "total")


def test_tables_and_frozen_weights_are_tiers_of_their_own():
    plain, config = config_lib.default(), config_lib.default()
    config.model.encoder.ngrams, config.model.encoder.ngram_rows = (3, 4, 5), 1000
    config.model.encoder.ngram_functions = 2
    config.model.entropy_model.layers, config.model.entropy_model.d_byte = 3, 64
    alone = account.account(config_lib.entropy_model(config))["parameters"]["total"]
    before, found = account.account(plain)["parameters"], account.account(config)["parameters"]
    assert found["n-grams"] == 2 * 3 * 1000 * 256
    assert found["entropy model"] == alone
    new = found["n-grams"] + found["entropy model"]
    assert found == before | {
        "n-grams": found["n-grams"],
        "entropy model": alone,
        "total": before["total"] + new,
    }
    text = account.text(account.account(config))
    assert "n-grams" in text and "entropy model" in text
    assert "n-grams" not in account.text(account.account(plain))


def test_a_model_without_a_trunk_makes_no_calls_and_keeps_no_cache():
    config = config_lib.default()
    config.model.trunk.kind, config.model.entropy_head.weight, config.trigger.kind = "none", 0.0, "none"
    found = account.account(config)
    assert account.rates(config) == (0, 0)
    assert found["parameters"].keys() == found["inference_flops_per_byte"].keys() == {"encoder", "decoder", "total"}
    assert found["trunk_calls_per_byte"] == found["commits_per_byte"] == found["kv_bytes_per_byte"] == 0
    assert found["training_flops_per_byte"]["total"] == 3 * found["inference_flops_per_byte"]["total"]
    assert "trunk " not in account.text(found).split("\ntrunk calls")[0]


def test_cache_does_not_depend_on_scratchpads():
    config = config_lib.default()
    # Keys and values of 8 layers of width 512, in float32, once per 16 bytes.
    assert kv_cache.kv_bytes_per_byte(config, 1 / 16) == 2 * 8 * 512 * 4 / 16
    for trigger in ("none", "every", "stride"):
        config.trigger.kind = trigger
        assert account.account(config)["kv_bytes_per_byte"] == 2 * 8 * 512 * 4 / 16
    config.model.trunk.kv_heads = 2
    config.training.dtype = "bfloat16"
    assert kv_cache.kv_bytes_per_byte(config, 1 / 16) == 2 * 8 * 128 * 2 / 16


@pytest.mark.parametrize(
    ("patchifier", "trigger", "commits", "scratchpads"),
    [
        ("byte", "none", 1, 0),
        ("byte", "entropy", 1, 0),
        ("fixed", "none", 1 / 16, 0),
        ("fixed", "stride", 1 / 16, 3 / 16),
        ("fixed", "every", 1 / 16, 15 / 16),
        ("fixed", "entropy", 1 / 16, 1 / 4),
        ("fixed", "random", 1 / 16, 15 / 64),
        ("entropy", "none", 1 / 16, 0),
    ],
)
def test_rates(patchifier, trigger, commits, scratchpads):
    config = config_lib.default()
    config.patching.kind, config.trigger.kind = patchifier, trigger
    assert account.rates(config) == pytest.approx((commits, scratchpads))


def test_table_names_every_tier():
    text = account.text(account.account(config_lib.default()))
    for word in ("encoder", "entropy head", "pooling", "trunk", "decoder", "total", "KV cache"):
        assert word in text


def test_peaks_of_known_chips():
    assert chips.peak_flops("NVIDIA H200") == 989e12
    assert chips.peak_flops("TPU v5 lite") == 197e12
    assert chips.peak_flops("TPU v5p") == 459e12
    assert chips.peak_flops("cpu") is None
