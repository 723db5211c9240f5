import math
import types

import jax
import pytest

from scratchpatch.accounting import flops
from scratchpatch.training import optimizer
from scratchpatch.training.measures import Measures
from tests import tiny

CONFIG = tiny.config({"optimizer.learning_rate": 0.5, "optimizer.warmup_steps": 3, "training.steps": 9})
CPU = types.SimpleNamespace(device_kind="cpu")
H100 = types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3")

SUMS = {
    "nats": 160 * math.log(2),
    "head_nats": 240 * math.log(2),
    "end_nats": 6.0,
    "head_end_nats": 7.0,
    "bytes": 80.0,
    "ends": 4.0,
    "targets": 84.0,
    "positions": 84.0,
    "commits": 21.0,
    "scratchpads": 42.0,
    "suppressed_commits": 2.0,
    "suppressed_scratchpads": 3.0,
    "encoder_keys": 700.0,
    "entropy_keys": 900.0,
    "decoder_keys": 500.0,
    "trunk_keys": 252.0,
    "pool_keys": 200.0,
    "gradient_norm": 0.25,
    "patching_threshold": 1.5,
    "trigger_threshold": 1.25,
}


def measures(devices=(CPU,), config=CONFIG) -> Measures:
    return Measures(config, optimizer.schedule(config), list(devices))


def test_metrics_of_hand_made_sums():
    found = measures().of(0, SUMS, 2.0)
    assert found == pytest.approx(
        {
            "bpb": 2.0,
            "head_bpb": 3.0,
            "end_of_document_nats": 1.5,
            "gradient_norm": 0.25,
            "learning_rate": 0.5 / 3,
            "trunk_calls_per_byte": 0.75,
            "scratchpads_per_byte": 0.5,
            "bytes_per_patch": 4.0,
            "suppressed_commits": 2.0,
            "suppressed_scratchpads": 3.0,
            "patching_threshold": 1.5,
            "trigger_threshold": 1.25,
            "bytes": 80.0,
            "bytes_per_second": 40.0,
            "flops_per_second": flops.trained(CONFIG, SUMS) / 2.0,
        }
    )


def test_utilisation_counts_all_chips_and_only_those_whose_peak_is_known():
    found = measures([H100, H100]).of(0, SUMS, 2.0)
    assert found["mfu"] == pytest.approx(found["flops_per_second"] / (2 * 989e12))
    assert "mfu" not in measures([CPU, CPU]).of(0, SUMS, 2.0)


def test_what_did_not_happen_has_no_number():
    headless = {name: value for name, value in SUMS.items() if not name.startswith("head")}
    found = measures([H100]).of(0, headless | {"ends": 0.0, "end_nats": 0.0, "commits": 0.0}, None)
    assert math.isnan(found["end_of_document_nats"]) and math.isinf(found["bytes_per_patch"])
    assert not found.keys() & {"head_bpb", "bytes_per_second", "flops_per_second", "mfu"}


def test_a_model_without_a_trunk_has_no_rates():
    config = tiny.config({"model.trunk.kind": "none", "model.entropy_head.weight": 0.0, "trigger.kind": "none"})
    nothing = dict.fromkeys(("commits", "scratchpads", "suppressed_commits", "suppressed_scratchpads"), 0.0)
    sums = {name: value for name, value in SUMS.items() if not name.startswith("head")} | nothing
    found = measures(config=config).of(0, sums, 2.0)
    assert found.keys() == {
        "bpb",
        "end_of_document_nats",
        "gradient_norm",
        "learning_rate",
        "bytes",
        "bytes_per_second",
        "flops_per_second",
    }
    assert found["bpb"] == 2.0 and found["flops_per_second"] == pytest.approx(flops.trained(config, sums) / 2.0)


@pytest.mark.parametrize("warmup", [0, 3, 9])
def test_the_learning_rate_is_the_schedules_and_asks_no_device(warmup):
    config = tiny.config({"optimizer.warmup_steps": warmup, "training.steps": 9})
    schedule, made = optimizer.schedule(config), measures(config=config)
    with jax.transfer_guard("disallow"):
        found = [made.of(step, SUMS, 1.0)["learning_rate"] for step in range(9)]
    assert found == [schedule(step) for step in range(9)]
    assert len(set(found)) >= 9 - 1
