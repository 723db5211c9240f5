import json
import os
import subprocess
import sys

import pytest

import scratchpatch
from scratchpatch import config as config_lib, schema
from scratchpatch.checkpoints.workdir import guard_workdir, load_config, lock_workdir
from scratchpatch.errors import UserError
from scratchpatch.training.loop import train
from tests import runs
from tests.full_disk import NO_SPACE


def test_the_first_start_writes_the_config_and_the_same_one_passes(tmp_path):
    config = config_lib.default()
    config_lib.set_field(config, "training.steps", 7)
    guard_workdir(tmp_path / "run", config)
    guard_workdir(tmp_path / "run", config)
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == {
        "schema": schema.CURRENT,
        "version": scratchpatch.__version__,
        "config": config_lib.flat(config),
    }
    assert load_config(tmp_path / "run").to_dict() == config.to_dict()
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["config.json", "settings.json"]


def test_another_experiment_is_refused_with_the_difference(tmp_path):
    guard_workdir(tmp_path, config_lib.default())
    other = config_lib.default()
    config_lib.set_field(other, "training.batch_rows", 7)
    config_lib.set_field(other, "trigger.kind", "stride")
    with pytest.raises(UserError) as error:
        guard_workdir(tmp_path, other)
    changes = "trigger.kind: 'entropy' -> 'stride'; training.batch_rows: 8 -> 7"
    assert f"holds another experiment: {changes};" in str(error.value)
    assert load_config(tmp_path).training.batch_rows == 8


def test_a_free_field_may_change_and_is_recorded(tmp_path):
    guard_workdir(tmp_path, config_lib.default())
    other = config_lib.default()
    config_lib.set_field(other, "training.checkpoint_every", 5)
    guard_workdir(tmp_path, other)
    assert load_config(tmp_path).training.checkpoint_every == 5


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config": 3}', '{"config": {"training.stepz": 3}}'])
def test_a_config_that_cannot_be_read_is_named(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(UserError, match=f"cannot read {tmp_path}/config.json"):
        load_config(tmp_path)


def test_no_workdir_and_an_unwritable_one_are_named(tmp_path):
    with pytest.raises(UserError, match=f"{tmp_path} is no workdir"):
        load_config(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write .*file/config.json: File exists"):
        guard_workdir(tmp_path / "file", config_lib.default())


_HOLDER = """
import sys
from scratchpatch.checkpoints.workdir import lock_workdir
with lock_workdir(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_trainer_is_refused_until_the_first_dies(tmp_path):
    command = [sys.executable, "-c", _HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        message = rf"in use by another trainer \(process {holder.pid}\)"
        with pytest.raises(UserError, match=message), lock_workdir(tmp_path):
            pass
        holder.kill()
        holder.wait()
        with lock_workdir(tmp_path):
            pass
    with lock_workdir(tmp_path):
        pass


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_start_that_fails_deletes_only_what_it_wrote(tmp_path):
    config = runs.config(tmp_path)
    config.data.sources = ((f"text:{tmp_path}/nowhere/*.txt", 1.0),)
    workdir = tmp_path / "run"
    with pytest.raises(UserError, match="nowhere"):
        train(config, workdir)
    assert contents(workdir).keys() == {"lock"}
    guard_workdir(workdir, config)
    (workdir / "notes.txt").write_text("mine")
    before = contents(workdir)
    with pytest.raises(UserError, match="nowhere"):
        train(config, workdir)
    after = contents(workdir)
    assert {name: after[name] for name in ("config.json", "notes.txt")} == {
        name: before[name] for name in ("config.json", "notes.txt")
    }
    assert after.keys() == {"lock", "config.json", "notes.txt"}
    # One of other fields that failed at its start is free for them.
    (workdir / "config.json").unlink()
    with pytest.raises(UserError, match="nowhere"):
        train(config, workdir)
    assert "config.json" not in contents(workdir)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "model.safetensors.index.json", "model-00001-of-00002.safetensors"]
)
@pytest.mark.parametrize("text", ["ours", '{"model_type": "blt"}', None])
def test_an_exported_model_is_no_workdir_and_stays_as_it_is(tmp_path, name, text):
    config = runs.config(tmp_path)
    model = tmp_path / "model"
    model.mkdir()
    if text == "ours":
        text = json.dumps({"schema": schema.CURRENT, "config": config_lib.flat(config)})
    if text:
        (model / "config.json").write_text(text)
    (model / name).write_bytes(b"weights")
    before = contents(model)
    with pytest.raises(
        UserError, match=f"holds a model .* use another --workdir, and --config.training.init_from={model}"
    ):
        train(config, model)
    assert contents(model) == before


@pytest.mark.parametrize("text", ["", "null", '{"editor": "vi"}', '{"model_type": "llama", "hidden_size": 8}'])
def test_a_config_json_that_is_no_runs_is_not_written_over(tmp_path, text):
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "config.json").write_text(text)
    with pytest.raises(UserError, match="cannot read .*project/config.json: .*, or use another --workdir"):
        train(runs.config(tmp_path), folder)
    assert contents(folder) == {"config.json": text.encode()}


def test_a_file_that_happens_to_be_named_lock_is_not_written_over(tmp_path):
    (tmp_path / "lock").write_text("poetry.lock v1\n")
    with pytest.raises(
        UserError, match="lock is not the lock of a run, and would be overwritten: use another --workdir"
    ):
        with lock_workdir(tmp_path):
            pass
    assert (tmp_path / "lock").read_text() == "poetry.lock v1\n"


def test_a_full_disk_holds_a_lock_as_well(tmp_path, monkeypatch):
    def full(*_):
        raise NO_SPACE

    monkeypatch.setattr(os, "pwrite", full)
    with lock_workdir(tmp_path):
        with pytest.raises(UserError, match=r"in use by another trainer \(process unknown\)"), lock_workdir(tmp_path):
            pass
