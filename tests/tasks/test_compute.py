"""Quality against compute; the weights are random. Nothing here depends on how fast the machine is."""

import pytest

from scratchpatch import config as config_lib, timing
from scratchpatch.errors import UserError
from scratchpatch.evaluation import sweep
from scratchpatch.inference.loading import load
from scratchpatch.tasks.compute import TRAINED, Compute
from scratchpatch.tasks.task import Setting
from tests import runs


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(timing, "_FEWEST_TURNS", 1)
    monkeypatch.setattr(sweep, "_RATES", (0.2,))
    monkeypatch.setattr(sweep, "_PATCHES", (0.5,))


def run(tmp_path, fields, **options):
    _, workdir = runs.untrained(tmp_path, runs.SHALLOW | fields)
    task = Compute(**options)
    task.protocol()
    return task.run(Setting(load(workdir), workdir))


def test_points_go_from_no_scratchpad_to_one_at_every_byte(tmp_path, few):
    results = run(tmp_path, {}, bytes=300, generated=6)
    points = results[sweep.TRIGGER]
    assert list(points)[:2] == [TRAINED, "none"] and list(points)[-1] == "every byte" and len(points) == 4
    assert 250 < results["bytes"] <= 300 and "model" not in results
    costs = [point["flops_per_byte"] for point in list(points.values())[1:]]
    assert costs == sorted(costs)
    for point in points.values():
        assert point["scoring_seconds_per_byte"] > 0 and point["generation_seconds_per_byte"] > 0
        # What the timed program has room for is what it uses, and a quarter.
        assert point["scoring_trunk_calls_per_byte"] <= point["scoring_slots_per_byte"]
    assert points["none"]["scoring_slots_per_byte"] == pytest.approx(1 / 4)
    assert points["none"]["generation_trunk_calls_per_byte"] <= 0.5
    assert points["every byte"]["generation_trunk_calls_per_byte"] == 1
    middle = list(points.values())[2]
    assert middle["scoring_slots_per_byte"] == pytest.approx(1 / 4 + 0.25, abs=0.03)
    assert middle["scoring_bpb"] == pytest.approx(middle["bpb"], abs=0.05)


def test_patches_have_a_dial_of_their_own(tmp_path, few, monkeypatch):
    monkeypatch.setattr(sweep, "dials", lambda lm: [sweep.PATCHIFIER])
    fields = {"patching.kind": "entropy", "trigger.kind": "none"}
    results = run(tmp_path, fields, bytes=300, generated=0)
    assert results.keys() == {"bytes", "device", sweep.PATCHIFIER}
    points = results[sweep.PATCHIFIER]
    assert len(points) == 2 and "generation_seconds_per_byte" not in points[TRAINED]
    (name,) = points.keys() - {TRAINED}
    assert points[name]["bytes_per_patch"] == pytest.approx(2, rel=0.3)
    assert points[name]["scoring_slots_per_byte"] < 1


def test_a_model_without_a_dial_has_one_point(tmp_path, few, caplog):
    caplog.set_level("INFO", logger="absl")
    results = run(tmp_path, runs.BYTE_LEVEL, bytes=300, seconds=False)
    assert list(results["model"]) == [TRAINED] and results["model"][TRAINED]["trunk_calls_per_byte"] == 1
    assert "scoring_seconds_per_byte" not in results["model"][TRAINED]
    assert "no threshold to move" in caplog.text


def test_other_text_is_named(tmp_path, few):
    path = tmp_path / "other.txt"
    path.write_text("other words, and some more of them")
    results = run(tmp_path, runs.BYTE_LEVEL, source=str(path), seconds=False)
    assert results["bytes"] == path.stat().st_size


def test_bad_options_and_no_text_are_named(tmp_path):
    with pytest.raises(UserError, match="compute.bytes = 0 must be 1 or more"):
        Compute(bytes=0).protocol()
    with pytest.raises(UserError, match="no file matches"):
        Compute(source=str(tmp_path / "none.txt")).protocol()
    config = config_lib.default()
    with pytest.raises(UserError, match="compute needs text"):
        Compute()._streams(Setting(type("Model", (), {"config": config})()))
