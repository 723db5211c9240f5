"""Stored steps that are not the run's own: of another number, experiment or version."""

import os
import shutil

import pytest

from scratchpatch import config as config_lib
from scratchpatch.checkpoints import format, housekeeping
from scratchpatch.checkpoints.reader import CheckpointReader
from scratchpatch.checkpoints.writer import Checkpoints
from scratchpatch.errors import UserError
from tests.checkpoints.test_format import seal
from tests.checkpoints.test_reader import ABSTRACT, CONFIG, assert_is, store

# pytest resets the filter that arrays.py sets.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine '.*' was never awaited:RuntimeWarning")


def test_a_step_under_another_number_is_damaged(tmp_path):
    """As the newest, it would end the run."""
    folder = store(tmp_path / "checkpoints", 10, 12)
    (folder / "12").rename(folder / "99")
    assert_is(CheckpointReader(folder).restore_latest(ABSTRACT), 10)
    (row,) = (row for row in housekeeping.listing(tmp_path)["steps"] if row["step"] == 99)
    assert row["damaged"] == "it holds step 12, which is not its folder's name"
    run = Checkpoints(folder, CONFIG, 9)
    assert_is(run.restore_latest(ABSTRACT), 10)
    run.close()
    assert sorted(os.listdir(folder)) == ["10", "99.damaged"]


def another(**fields):
    config = config_lib.default()
    for name, value in fields.items():
        config_lib.set_field(config, name.replace("__", "."), value)
    return config


def test_a_step_of_another_experiment_is_named(tmp_path):
    """Its arrays have the same names and shapes."""
    folder, other = store(tmp_path / "checkpoints", 10), another(seed=3, data__sources=(("text:/other/*.txt", 1.0),))
    shutil.copytree(store(tmp_path / "other", 20, config=other) / "20", folder / "20")
    for reader in (CheckpointReader(folder, CONFIG), Checkpoints(folder, CONFIG, 9)):
        says = "/20 is of another experiment: seed: 3 -> 0; data.sources: .*text:/other.*; move it away"
        with pytest.raises(UserError, match=says):
            reader.restore_latest(ABSTRACT)
        assert sorted(os.listdir(folder)) == ["10", "20"]
        assert_is(reader.restore(10, ABSTRACT), 10)


def test_what_may_change_when_a_run_resumes_may_differ(tmp_path):
    later = another(
        training__steps=7,
        optimizer__learning_rate=1.0,
        training__keep_last=5,
        data__sources=(("stdlib:code", 9.0), ("stdlib:prose", 1.0)),
    )
    folder = store(tmp_path / "checkpoints", 10, config=later)
    assert_is(CheckpointReader(folder, CONFIG).restore_latest(ABSTRACT), 10)


def test_relative_paths_of_an_older_version_are_not_another_experiment(tmp_path):
    """Neither in the step nor in the run's config."""
    older, now = (another(data__sources=((f"text:{where}data/*.txt", 1.0),)) for where in ("", "/project/"))
    assert_is(CheckpointReader(store(tmp_path / "old", 1, config=now), older).restore_latest(ABSTRACT), 1)
    folder = store(tmp_path / "older", 1, config=now)
    about = format.read_about(folder / "1")
    seal(folder / "1", about | {"config": config_lib.flat(older)})
    assert_is(CheckpointReader(folder, now).restore_latest(ABSTRACT), 1)


@pytest.mark.parametrize(
    "config, reason",
    [
        ({"training.colour": 1}, "config has no field 'training.colour'"),
        ({"seed": "x"}, "config field seed takes a value of type int"),
        ({"data.sources": [["nonsense:x", 1.0]]}, "nonsense"),
    ],
)
def test_a_config_that_is_none_is_damage(tmp_path, config, reason, caplog):
    folder = store(tmp_path / "checkpoints", 1, 2)
    about = format.read_about(folder / "2")
    seal(folder / "2", about | {"config": about["config"] | config})
    assert_is(CheckpointReader(folder, CONFIG).restore_latest(ABSTRACT), 1)
    assert f"2 is damaged (about.json: {reason}" in caplog.text or reason in caplog.text


def test_a_step_of_a_later_version_is_named_with_its_folder(tmp_path):
    folder = store(tmp_path / "checkpoints", 1)
    seal(folder / "1", format.read_about(folder / "1") | {"schema": 99})
    with pytest.raises(UserError, match=f"cannot read {folder}/1: it has schema 99, written by version"):
        CheckpointReader(folder).restore_latest(ABSTRACT)
