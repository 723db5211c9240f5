"""The recall study: rows of whole documents, lanes that train as one model would alone, and its page."""

import json

import jax
import numpy as np
import pytest

from experiments.recall import config as study_config, grid, summary, training, worker
from experiments.recall.training import Lane, Trial
from scratchpatch import config as config_lib
from scratchpatch.distributed import mesh
from scratchpatch.errors import UserError
from scratchpatch.training import optimizer
from scratchpatch.training.step import Trainer
from tests import tiny
from tests.tiny import BOS, PAD


@pytest.mark.parametrize("cell", grid.GRID, ids=lambda cell: cell.name)
def test_cells_are_valid_and_no_two_share_a_folder(cell):
    config = study_config.get_config(cell.variant)
    config_lib.check(config)
    assert [other.name for other in grid.GRID].count(cell.name) == 1
    lanes = [worker.lane_of(text) for text in cell.lanes(["0", "1"])]
    assert {(lane.pairs, lane.distance) for lane in lanes} == {(cell.pairs, cell.distance)}
    assert [(lane.learning_rate, lane.seed) for lane in lanes] == [(r, s) for r in cell.rates for s in (0, 1)]
    assert all(lane.documents.length < config.data.window for lane in lanes)


def test_a_variant_that_is_none_is_refused():
    with pytest.raises(ValueError, match="no variant 'p5_every_last'"):
        study_config.get_config("p5_every_last")


def test_rows_hold_whole_documents_and_answers_are_their_digits():
    lane = Lane(seed=3, pairs=2, questions=3)
    rows_BM, answers_L = lane.rows(40, 5, 0), lane.answers(40)
    # 15 bytes and a BOS, twice; BOS again, and PAD.
    assert rows_BM.shape == (5, 41) and (rows_BM[:, [0, 16, 32]] == BOS).all() and (rows_BM[:, 33:] == PAD).all()
    assert answers_L.shape == (40,) and answers_L.sum() == 2 * 3
    targets_BL, keys_BL = rows_BM[:, 1:], rows_BM[:, :-1]
    for row, target in zip(keys_BL, targets_BL, strict=True):
        for document in (0, 16):
            text = bytes(row[document + 1 : document + 16].astype(np.uint8))
            told = dict(pair.encode() for pair in text.decode().split("; ")[0].split(" "))
            at = np.flatnonzero(answers_L[document : document + 16]) + document
            assert [told[row[place]] for place in at] == [target[place] for place in at]
    # Of other parts, other documents.
    assert (lane.rows(40, 5, 0) == rows_BM).all() and (lane.rows(40, 5, 1) != rows_BM).any()


def test_lanes_train_as_each_would_alone(monkeypatch):
    monkeypatch.setattr(training, "EVERY", 2)
    monkeypatch.setattr(training, "HELD_OUT_ROWS", 2)
    fields = {
        "data.window": 40,
        "patching.patch_bytes": 3,
        "model.pooling.kind": "last",
        "model.trunk.layers": 1,
        "model.decoder.layers": 0,
        "model.entropy_head.weight": 0.0,
        "trigger.kind": "every",
        "training.batch_rows": 2,
        "training.steps": 4,
        "optimizer.schedule": "constant",
        "optimizer.warmup_steps": 3,
        "optimizer.learning_rate": 1e-2,
    }
    config = tiny.config(fields)
    lanes = [Lane(0, 2, 3), Lane(5, 3, 2, learning_rate=3e-3)]
    trial = Trial(config, lanes)
    results = trial.run()
    assert [[step for step, *_ in result["curve"]] for result in results] == [[2, 4]] * 2
    assert all(result["learned"] is None and result["steps"] == 4 for result in results)
    assert all(result["fresh"] == 1 for result in results)
    assert all(result["commits_per_byte"] + result["scratchpads_per_byte"] == pytest.approx(1) for result in results)

    config.seed = 5
    trainer = Trainer(config, mesh.make(config, jax.devices()[:1]))
    advance, state = trainer.compile(), trainer.init()
    for part in (0, 2):
        rows_BM = lanes[1].rows(40, 4, part).reshape(2, 2, -1)
        for t in range(2):
            settings = optimizer.settings(config, part + t)
            settings[0] *= 0.3
            state, _ = advance(state, trainer.place(rows_BM[t]), trainer.place_settings(settings))
    for one, all_S in zip(jax.tree.leaves(state["params"]), jax.tree.leaves(trial.state_S["params"]), strict=True):
        np.testing.assert_allclose(all_S[1], one, rtol=1e-3, atol=1e-5)


def lane_result(seed, accuracy, learned=None, rate=1e-3, pairs=6, distance=0):
    return {
        "lane": {"seed": seed, "pairs": pairs, "questions": 24, "distance": distance, "learning_rate": rate},
        "accuracy": accuracy,
        "bits": 0.5,
        "fresh": 0.25,
        "steps": 1000,
        "learned": learned,
        "commits_per_byte": 0.25,
        "scratchpads_per_byte": 0.5,
        "kv_bytes_per_byte": 492.0,
        "seconds": 20.0,
        "device": "cpu",
        "date": "2026-01-02",
        "curve": [[25 * n, accuracy * n / 8, 0.5] for n in range(1, 9)],
    }


def test_the_page_has_the_numbers_of_each_seed_and_says_what_is_missing(tmp_path):
    runs = {
        "p4_every_cross+last": [lane_result(1, 0.9, 50), lane_result(0, 0.7)],
        "p16_every_cross+last": [lane_result(0, 0.4)],
        "p16_every_concat": [lane_result(0, 0.6) | {"curve": [[25, 0.2, 3.0], [50, 0.6, 1.0]]}],
        "p8_every_concat": [lane_result(0, 0.6), lane_result(0, 0.3, pairs=12)],
    }
    files = []
    for variant, lanes in runs.items():
        files.append(tmp_path / f"{variant}.json")
        files[-1].write_text(json.dumps({"variant": variant, "lanes": lanes}))
    summary.write(tmp_path / "page", files)
    page = (tmp_path / "page" / "README.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| p=4 | every byte"))
    assert "| 0.700, 0.900 |" in row and "| never and 50 |" in row and "| 0.25 | 0.75 | 492 | CPU |" in row
    assert "p=4: not measured and 0.80" in page.replace("\n", " ").replace("  ", " ")
    # The default has 0.4 / 8 a measurement.
    assert "after 50 steps, the default 0.10 and `concat` 0.60" in " ".join(page.split())
    assert "## 12 pairs" in page and "2026-01-02" in page and "not measured" in page
    svg = (tmp_path / "page" / "recall.svg").read_text()
    assert "p=4, every byte" in svg and "p=8, every byte, concat" in svg


def test_a_page_of_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no run is finished"):
        summary.write(tmp_path, [])
