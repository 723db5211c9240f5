"""The residual patching study: its twins, one run of it at a tiny size, and its page."""

import json

import numpy as np
import pytest

from experiments.residual_patching import run, summary, worker
from experiments.residual_patching.config import LEAKY, LONG, STEPS_OF_LONG, VARIANTS, get_config
from scratchpatch import config as config_lib
from scratchpatch.accounting import account
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.inference.windows import Text
from tests import tiny

WORDS = b"o gato viu a casa, e a casa viu o gato. "


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_valid_and_twins_differ_in_the_leak_alone(variant):
    config = get_config(variant)
    config_lib.check(config)
    if variant in LEAKY:
        assert set(config_lib.changed(get_config(variant[0]), config)) == {"model.leak", "training.allow_leak"}
    assert config_lib.is_causal(config) == ("leaky" not in variant)


def test_no_other_variant_is_taken_for_one():
    with pytest.raises(ValueError, match="no variant 'g'; wanted one of a, b, "):
        get_config("g")


def test_the_sizes_are_about_the_published_ones_and_the_compute_that_of_a_quarter():
    a, e = (account.account(get_config(variant)) for variant in "ae")
    assert a["parameters"]["total"] == e["parameters"]["total"] and 1.7e6 < e["parameters"]["total"] < 1.9e6
    assert 3 < e["training_flops_per_byte"]["total"] / a["training_flops_per_byte"]["total"] < 4
    assert account.account(get_config("f"))["parameters"]["total"] == pytest.approx(2_632_000, rel=0.02)


@pytest.fixture
def tiny_variants(monkeypatch, tmp_path):
    """The study's variants as tiny models of a text."""
    (tmp_path / "text.txt").write_bytes(WORDS * 200)
    sources = ((f"text:{tmp_path}/text.txt", 1.0),)

    def tiny_config(variant):
        fields = dict(zip(config_lib.BY_NAME, config_lib.flat(get_config(variant)).values(), strict=True))
        small = {name: tiny.FIELDS[name] for name in ("model.d_byte", "model.trunk.d_model", "training.batch_rows")}
        small |= {"data.window": 32, "model.trunk.layers": 1, "mesh.data": 1, "model.entropy_head.layers": 0}
        made = config_lib.from_flat(fields | small | {"data.sources": sources, "data.validation_sources": ()})
        made.model.pooling.heads = 2
        made.model.encoder.heads = 2
        made.model.decoder.heads = 2
        made.optimizer.warmup_steps = 4
        return made

    monkeypatch.setattr(worker, "get_config", tiny_config)


def test_a_leaky_run_trains_and_says_so(tiny_variants, tmp_path):
    worker.main("a_leaky", 1, tmp_path / "run", 20, 200)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["training_bytes"] == 20 * 8 * 32 and len(result["bpb_by_place"]) == 4
    assert result["commits_per_byte"] == pytest.approx(1 / 4, abs=0.02) and 0 < result["bpb"] < 8
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert all(json.loads(line)["causality"] == "INVALID" for line in lines)
    assert result["stage"] == "decoder" and result["without_leak"] != result["bpb"]


def test_the_byte_behind_a_closed_patch_is_the_first_of_its_own():
    config = tiny.config({"patching.patch_bytes": 4, "trigger.kind": "none"})
    lm = LanguageModel(config, tiny.weights(config))
    for part in lm.positions(Text(lm.tokens(WORDS * 9), lm.vocabulary)):
        assert (part.commit == (worker.places(lm, part) == 0)).all() and part.commit.any()


def numbers(bpb: float, **more) -> dict:
    made = {"bpb": bpb, "bpb_by_place": [bpb] * 4, "parameters": 1_860_608, "training_bytes": 3_276_800}
    return made | {"flops_per_byte": 1e6, "commits_per_byte": 0.25} | more


def test_the_page_has_the_record_and_compares_by_seed():
    results = {}
    for seed in (0, 1):
        results["a", seed] = numbers(2.9 + 0.01 * seed)
        results["e", seed] = numbers(2.4 + 0.02 * seed)
    results["a_leaky", 0] = numbers(1.3, without_leak=5.5, stage="decoder")
    page = summary.page(results, dict.fromkeys(summary.BASES, 256.0) | {"e": 1024.0})
    assert "| A, mean of 4 bytes | 1.132 | 1.300 | 5.500 | 2.905 ± 0.005 | decoder |" in page
    assert "| E, no patches | 1.770 | has none | | 2.410 ± 0.010 | |" in page
    assert "+0.4950 (+0.5000, +0.4900) BPB: worse." in page.replace("\n  ", " ")
    assert "| A, mean of 4 bytes | 1,860,608 | 256 | 16,000 | 4.00 | 3.60 | 1.00 |" in page
    assert "| A, mean of 4 bytes, leaky | 1.300 | 1.300 | 1.300 | 1.300 |" in page


def test_the_plan_says_what_is_trained_and_how_long_that_takes():
    said = run.plan([0, 1], 500, 2)
    assert said.startswith("12 variants, seeds 0, 1: 500 steps, 2.0 MB each")
    assert f"({', '.join(LONG)}: {STEPS_OF_LONG:g} times as much)" in said
    assert np.isclose(int(said.split("about ")[1].split()[0]), 45, atol=15)
