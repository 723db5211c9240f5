"""The tinyshakespeare study: its cut of the text, its windows, its variants and its page."""

import math

import numpy as np
import pytest

from experiments.shakespeare import run, summary, worker
from experiments.shakespeare.config import VARIANTS, get_config
from scratchpatch import config as config_lib
from scratchpatch.accounting.parameters import parameters
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.inference.windows import Text
from tests import tiny


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_valid_and_of_the_steps_and_rows_of_the_recipe(variant):
    config = get_config(variant)
    config_lib.check(config)
    assert (config.training.steps, config.training.batch_rows, config.data.window) == (2000, 12, 64)
    size = sum(parameters(config).values())
    assert variant.split("-")[0].endswith("_ngrams") or 0.85e6 < size < 1.05e6


def test_the_public_variants_have_the_public_optimizer():
    o = get_config("p4-public").optimizer
    assert (o.learning_rate, o.final_ratio, o.warmup_steps, o.schedule) == (1e-3, 0.1, 100, "cosine")
    assert (o.b1, o.b2, o.weight_decay, o.clip_norm) == (0.9, 0.99, 0.1, 1.0)


def test_no_other_variant_is_taken_for_one():
    with pytest.raises(ValueError, match="no variant 'p8-public'; wanted one of flat-public, "):
        get_config("p8-public")


def test_the_text_is_cut_where_nanogpt_cuts_it(tmp_path):
    text = bytes(range(256)) * 4358
    run.split(text[:1_115_394], tmp_path)
    train, validation = ((tmp_path / f"{name}.txt").read_bytes() for name in ("train", "validation"))
    assert (len(train), len(validation)) == (1_003_854, 111_540)
    assert train + validation == text[:1_115_394]


def test_windows_are_cold_and_predict_every_byte_but_the_first_once():
    lm = LanguageModel(tiny.config(), tiny.weights(tiny.config()))
    stream = Text(lm.tokens(bytes(range(200))), lm.vocabulary)
    rows_RM = worker.cold_windows(stream, 64, 1000)
    assert rows_RM.shape == (3, 65)
    assert rows_RM[:, 1:].ravel().tolist() == list(range(1, 193)) and rows_RM[:, 0].tolist() == [0, 64, 128]
    assert len(worker.cold_windows(stream, 64, 130)) == 2


def test_measured_nats_are_those_of_the_rows_one_by_one():
    config = tiny.config({"data.window": 64, "trigger.kind": "every"})
    lm = LanguageModel(config, tiny.weights(config))
    stream = Text(lm.tokens(bytes(range(65, 90)) * 9), lm.vocabulary)
    rows_RM = worker.cold_windows(stream, 64, 1000)
    measured = worker.measure(lm, rows_RM)
    alone = [lm.look(row_M[None])["nats"].mean() for row_M in rows_RM]
    assert measured["nats"] == pytest.approx(np.mean(alone), abs=1e-5)
    assert measured["trunk_calls_per_byte"] == pytest.approx(1)


def test_the_page_has_a_table_for_each_recipe_and_names_what_is_missing():
    number = {"parameters": 921_088, "training_bytes": 1_536_000, "trunk_calls_per_byte": 1.0}
    number |= {"kv_bytes_per_byte": 4096.0, "flops_per_byte": 2e6}
    results = {("flat-public", seed): {**number, "nats": 1.68 + 0.01 * seed} for seed in (0, 1)}
    results["p4-ours", 0] = {**number, "nats": 1.5}
    page = summary.page(results, "86c4", 1_115_394)
    bits = 1.685 / math.log(2)
    assert f"| byte-level | 921,088 | 1.680, 1.690 | 1.685 ± 0.005 | {bits:.3f} | 1.00 | 4096 | 2.00 |" in page
    assert "| p=4 | 921,088 | 1.500 | 1.500 ± 0.000 |" in page
    assert "Not trained so far: `p4-public`" in page and "`flat-public`," not in page
    assert "`optimizer.learning_rate = " in page
