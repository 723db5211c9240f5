"""A run folder as version 0.1.0 wrote it, without a schema: schema_1/run, stopped after 3 of 6 steps."""

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import scratchpatch as sp
from scratchpatch import config as config_lib, schema
from scratchpatch.checkpoints import workdir
from scratchpatch.checkpoints.reader import CheckpointReader
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.report.run_folder import RunFolder
from scratchpatch.training import optimizer
from scratchpatch.training.loop import train
from scratchpatch.training.step import Trainer
from tests import runs, tiny

OLD = Path(__file__).parent / "schema_1" / "run"
# By the version that wrote it: nats of three steps on one batch from there on, and the mean score of a text.
NATS = (651.1705, 647.6367, 641.7419)
SCORE = -7.966886


def test_an_old_run_loads_and_scores_as_it_did():
    assert "schema" not in json.loads((OLD / "config.json").read_text())
    assert sp.load(OLD).score(b"the cat sat on a mat").mean() == pytest.approx(SCORE, abs=1e-3)
    assert RunFolder(OLD).config["training.steps"] == 6 and len(RunFolder(OLD).metrics) == 3


def test_the_state_of_an_old_checkpoint_trains_on_as_it_did():
    """Moments, step and thresholds are there; the schedule's own count, which is no more, is left out."""
    config = workdir.load_config(OLD)
    trainer = Trainer(config, mesh_lib.make(config))
    state = CheckpointReader(OLD / "checkpoints").restore_latest(trainer.abstract_state()).state
    assert int(state["step"]) == 3 == int(state["optimizer"][1][0].count) and int(state["means"]["steps"]) == 0
    step, rows_BM = trainer.compile(), tiny.batch(rows=2, length=65)
    for index, nats in enumerate(NATS, start=3):
        settings = trainer.place_settings(optimizer.settings(config, index))
        state, sums = step(state, trainer.place(rows_BM), settings)
        assert float(sums["nats"]) == pytest.approx(nats, rel=2e-4)
    spread = dict.fromkeys(("mesh.data",), 2)
    sharded = config_lib.from_flat(config_lib.flat(config) | spread)
    target = Trainer(sharded, mesh_lib.make(sharded)).abstract_state()
    restored = CheckpointReader(OLD / "checkpoints").restore_latest(target).state
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(restored)} == {2}


def test_an_old_run_goes_on_and_is_then_of_this_schema(tmp_path, monkeypatch):
    runs.leave_out_audit(monkeypatch.setattr)
    monkeypatch.chdir(tmp_path)
    runs.write_text(tmp_path / "text", files=150)
    shutil.copytree(OLD, tmp_path / "run")
    # Which documents validate is another matter than how a run is written down.
    (tmp_path / "run" / "data.json").unlink()
    config = workdir.load_config(tmp_path / "run")
    config.optimizer.learning_rate = 5e-3
    train(config, tmp_path / "run")
    document = json.loads((tmp_path / "run" / "config.json").read_text())
    assert document["schema"] == schema.CURRENT and runs.stored_steps(tmp_path / "run") == [3, 6]
    rates = [line["learning_rate"] for line in runs.lines(tmp_path / "run") if "bpb" in line]
    np.testing.assert_allclose(rates, [2.5e-3, 4.375e-3, 6.25e-3, 4.0625e-3, 5e-3, 5e-4], rtol=1e-6)
    settings = json.loads((tmp_path / "run" / "settings.json").read_text())
    assert [(step, values["optimizer.learning_rate"]) for step, values in settings] == [(0, 1e-2), (3, 5e-3)]
    assert runs.state(tmp_path / "run", config, 6)["step"] == 6


def test_a_field_that_got_another_name_is_read_by_the_new_one(monkeypatch):
    monkeypatch.setattr(schema, "FIELDS", {1: {"training.length": "training.steps", "training.gone": None}})
    old = {"version": "0", "config": {"training.length": 7, "training.gone": 1, "seed": 3}}
    assert schema.fields(old) == {"seed": 3, "training.steps": 7}
    assert schema.fields(old | {"schema": schema.CURRENT}) == old["config"]


def write(folder, **document) -> Path:
    (folder / "config.json").write_text(json.dumps(document))
    return folder


def test_a_newer_schema_and_an_unknown_field_are_named(tmp_path):
    newer = write(tmp_path, schema=schema.CURRENT + 1, version="9.0", config={"training.colour": 1})
    with pytest.raises(
        UserError,
        match=rf"has schema {schema.CURRENT + 1}, written by version 9.0.*up to {schema.CURRENT}: upgrade it$",
    ):
        workdir.load_config(newer)
    with pytest.raises(UserError, match="no field 'training.colour'"):
        workdir.load_config(write(tmp_path, config={"training.colour": 1}))
