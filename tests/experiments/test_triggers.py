"""The trigger study: its text, what it measures on one model, and its page. Legend: R rows, L positions."""

import gzip
import json

import numpy as np
import pytest

from experiments.triggers import summary, texts
from experiments.triggers.config import RATE, VARIANTS, get_config
from experiments.triggers.measure import KINDS, Measured, Programs
from scratchpatch import config as config_lib
from tests import tiny
from tests.tiny import BOS, PAD


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_differ_in_their_trigger_alone(variant):
    config = get_config(variant)
    config_lib.check(config)
    changed = set(config_lib.changed(get_config("entropy"), config))
    assert changed <= {"trigger.kind", "trigger.rate", "trigger.capacity"}


def test_a_slice_holds_parts_of_books_and_every_tenth_sum_validates(tmp_path, monkeypatch):
    monkeypatch.setenv("SCRATCHPATCH_DATA", str(tmp_path))
    sums = ((n, n + 1) for n in range(21))
    documents = {
        "en_books": [{"text": "b" * 30} for _ in range(9)],
        "code": [{"text": "c" * 30} for _ in range(9)],
        "gsm8k": [{"question": f"What is {n} + 1?", "answer": f"<<{n}+1={m}>>{m}\n#### {m}"} for n, m in sums],
    }
    for corpus, lines in documents.items():
        (tmp_path / corpus).mkdir()
        for split in ("train", "validation"):
            with gzip.open(tmp_path / corpus / f"{split}.jsonl.gz", "wt") as file:
                file.write("\n".join(map(json.dumps, lines)))
    texts.write(tmp_path / "texts", 160)
    lines = (tmp_path / "texts/books.train.jsonl").read_text().splitlines()
    assert sum(len(json.loads(line)["text"]) for line in lines) == 160
    first = json.loads((tmp_path / "texts/sums.validation.jsonl").read_text().splitlines()[0])["text"]
    assert first == "What is 0 + 1?\n<<0+1=1"[: len(first)] and first.startswith("What is 0 + 1?")


def test_rows_say_which_bytes_must_be_computed(tmp_path):
    lines = [{"text": "q\n<<40+2=42>>42 and\n#### 42\n"}, {"text": "no sum"}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    tokens_RM, computed_RL = texts.rows(tmp_path / "x.jsonl", 3, 16)
    assert tokens_RM.shape == (3, 17) and (tokens_RM[1:, 0] == tokens_RM[:-1, -1]).all()
    assert tokens_RM[0, 0] == BOS and tokens_RM[-1, -1] == PAD
    assert bytes(tokens_RM[:, 1:][computed_RL].tolist()) == b"4242"


def test_every_trigger_is_measured_on_one_model():
    fields = {"model.benefit.width": 4, "model.benefit.table": True, "trigger.kind": "random", "trigger.rate": 0.3}
    fields |= {"model.trunk.layers": 1, "patching.patch_bytes": 9}
    config = tiny.config(fields)
    weights, tokens_RM = tiny.weights(config), tiny.batch(rows=4)
    measured = Measured(config, weights, tokens_RM, Programs(config))
    corpora_R, computed_RL = np.repeat(["books", "code"], 2), np.zeros((4, tiny.WINDOW), bool)
    computed_RL[:, 5:9] = True
    found = {kind: measured.numbers(measured.scratchpads(kind), corpora_R, computed_RL) for kind in KINDS}
    # The program that is given scratchpads says what the model itself says of its own.
    output = tiny.forward(config)(weights, tokens_RM[:, :-1])
    np.testing.assert_array_equal(measured.signals["own"], output.layout.scratchpad_BL)
    logits_RLV, targets_RL = np.asarray(output.logits_BLV), tokens_RM[:, 1:]
    nats_RL, best_RL = measured.nats(measured.signals["own"])
    top_RL = np.log(np.exp(logits_RLV).sum(-1))
    wanted_RL = top_RL - np.take_along_axis(logits_RLV, np.minimum(targets_RL, BOS)[..., None], -1)[..., 0]
    np.testing.assert_allclose(nats_RL[targets_RL != PAD], wanted_RL[targets_RL != PAD], rtol=1e-4, atol=1e-4)
    assert (best_RL == (logits_RLV.argmax(-1) == targets_RL)).mean() > 0.99
    for kind in ("entropy", "score", "learned", "oracle", "oracle_next"):
        assert found[kind]["scratchpads_per_byte"] == pytest.approx(RATE, abs=0.01)
    assert found["none"]["scratchpads_per_byte"] == 0
    assert found["every"]["scratchpads_per_byte"] == pytest.approx(measured.eligible_RL.mean() * 288 / 281, abs=0.01)
    assert found["oracle_next"]["bpb"] < found["none"]["bpb"] and found["oracle"]["bpb"] < found["random"]["bpb"]
    correlations = measured.correlations()
    assert all(abs(correlations[kind]) < 1 for kind in ("entropy", "entropy_jump", "score", "learned"))


def test_the_page_tells_noise_from_results(tmp_path):
    rng = np.random.default_rng(0)

    def numbers(bpb):
        return {"bpb": bpb, "books": bpb, "code": bpb, "sums": bpb, "computed_bpb": bpb / 2} | {
            "computed_accuracy": 0.5, "scratchpads_per_byte": 0.1875,
        }

    lines = []
    for seed in (0, 1):
        for variant in VARIANTS:
            own = {"none": 2.1, "learned": 1.95, "score": 2.001 + 0.01 * seed}.get(variant, 2.005)
            lines.append({
                "variant": variant, "seed": seed, "steps": 5, "dtype": "bfloat16", "device": "a chip",
                "parameters": 4e6, "training_bytes": 8e6, "own": numbers(own),
                "fixed": {kind: numbers(2.1 - 0.05 * (kind != "none")) for kind in KINDS},
                "correlations": {k: float(rng.random()) for k in ("entropy", "entropy_jump", "score", "learned")}
                | {"benefit_mean": 0.01, "benefit_deviation": 0.3},
            })
    recall = {kind: [numbers(0.1)] * 2 for kind in ("none", "learned")}
    recall |= {"learned": [numbers(0.1) | {"computed_accuracy": x} for x in (0.75, 0.875)]}
    lines += [
        {"recall": True, "seed": seed, "steps": 9, "rates": [0.125, 0.25], "fixed": recall}
        | {"correlations": dict.fromkeys(("entropy", "entropy_jump", "score", "learned"), 0.25)}
        for seed in (0, 1)
    ]
    # A variant that lacks a seed is left out.
    lines = [line for line in lines if (line.get("variant"), line["seed"]) != ("stride", 1)]
    (tmp_path / "results.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary.write(tmp_path, tmp_path / "results.jsonl")
    page = (tmp_path / "README.md").read_text()
    assert all(len(line) <= 120 or line.startswith("|") for line in page.splitlines())
    said = page.replace("\n  ", " ")
    assert "| trigger | rate 1/8 | rate 1/4 |" in said
    assert "| learned (head) | 0.750, 0.750 | 0.875, 0.875 |" in said
    assert "stride 4: BPB" not in said.split("## On the same weights")[0]
    assert "2 paired seeds" in said and "- learned (head): BPB -0.0550 (-0.0550, -0.0550): better;" in said
    assert "- score (entropy + table): BPB +0.0010 (-0.0040, +0.0060): no result" in said
