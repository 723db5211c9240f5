"""An evaluator beside a run: here the run goes on whenever the evaluator waits."""

import fcntl
import json
import os
import shutil

import jax
import pytest

from scratchpatch.checkpoints import lock
from scratchpatch.checkpoints.format import ABOUT
from scratchpatch.checkpoints.writer import Checkpoints
from scratchpatch.errors import UserError
from scratchpatch.evaluation import follow as follow_lib
from scratchpatch.evaluation.evaluate import Asked, evaluate
from scratchpatch.report.run_folder import RunFolder
from tests import runs, tiny

FIELDS = runs.SHALLOW | {"data.window": 32, "training.steps": 3}
FILE = "evaluations/follow.jsonl"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """(config, workdir) of a run that has stored all its steps, 0 to 3; no two have the same weights."""
    made, workdir = runs.untrained(tmp_path_factory.mktemp("follow"), FIELDS, tiny.weights)
    checkpoints = Checkpoints(workdir / "checkpoints", made, 4)
    for step in (1, 2, 3):
        weights = tiny.weights(made)
        params = jax.tree.map(lambda x, step=step: x * (1 - 0.1 * step), weights["params"])
        checkpoints.save(step, weights | {"params": params})
    checkpoints.close()
    return made, workdir


@pytest.fixture
def run(stored, tmp_path, monkeypatch):
    """A copy of the run as it was when step 0 alone was stored; each time that somebody waits, it goes on a step."""
    run, others = tmp_path / "run", [1, 2, 3]
    shutil.copytree(stored[1], run, ignore=lambda folder, names: others and {"1", "2", "3"} & set(names))

    def goes_on(seconds):
        assert seconds == 7.0 and others, "it waits, and nothing comes any more"
        step = others.pop(0)
        shutil.copytree(stored[1] / "checkpoints" / str(step), run / "checkpoints" / str(step))

    monkeypatch.setattr(follow_lib.time, "sleep", goes_on)
    return run


def followed(run, asked=None) -> list[int]:
    return [line["step"] for line in follow_lib.follow(run, asked or Asked(), 7.0)]


def lines(run, file=FILE) -> list[dict]:
    return [json.loads(line) for line in (run / file).read_text().splitlines()]


def state(run) -> dict:
    """All files of the run but the evaluator's, by path."""
    paths = sorted(path for path in run.rglob("*") if path.is_file() and "evaluations" not in path.parts)
    return {str(path.relative_to(run)): (path.read_bytes(), path.stat().st_mtime_ns) for path in paths}


def test_each_checkpoint_is_measured_as_it_appears_until_the_last_one(stored, run):
    assert followed(run) == [0, 1, 2, 3]
    written = lines(run)
    assert [line["step"] for line in written] == [0, 1, 2, 3]
    for line in written[::3]:
        wanted = evaluate(stored[1], step=line["step"]).result
        assert line["bpb"] == wanted["bpb"] and line["bytes"] == wanted["bytes"]
    assert len({line["bpb"] for line in written}) == 4
    assert RunFolder(run).curve("bpb", "x", followed=True).y == [line["bpb"] for line in written]


def test_it_goes_on_where_it_was_and_measures_no_step_twice(stored, run):
    following = follow_lib.follow(run, Asked(), 7.0)
    assert [next(following)["step"] for _ in range(2)] == [0, 1]
    following.close()
    before = lines(run)
    # A kill has torn the last line.
    with (run / FILE).open("a") as file:
        file.write('{"step": 2, "bp')
    assert followed(run) == [2, 3]
    assert lines(run)[:2] == before and [line["step"] for line in lines(run)] == [0, 1, 2, 3]
    assert followed(run) == []


def test_nothing_of_the_trainer_is_touched_and_a_step_is_locked_while_it_is_read(stored, run, monkeypatch):
    before, locked, read = state(stored[1]), [], follow_lib.load

    def load(workdir, step, *more):
        reading = lock.reading

        def seen(path):
            locked.append(path)
            return reading(path)

        with monkeypatch.context() as patch:
            patch.setattr(lock, "reading", seen)
            return read(workdir, step, *more)

    monkeypatch.setattr(follow_lib, "load", load)
    followed(run)
    assert {name: data for name, (data, _) in state(run).items()} == {name: data for name, (data, _) in before.items()}
    assert locked == [run / "checkpoints" / str(step) / ABOUT for step in range(4)]
    after = state(run)
    followed(run)
    assert state(run) == after


def test_a_step_that_vanishes_is_left_out_for_a_newer_one(run, monkeypatch):
    read = follow_lib.load

    def load(workdir, step, *more):
        if step == 1:
            shutil.rmtree(run / "checkpoints" / "1")
        return read(workdir, step, *more)

    monkeypatch.setattr(follow_lib, "load", load)
    assert followed(run) == [0, 2, 3]


def test_a_damaged_step_is_named_and_left_out(run, caplog):
    file = next(path for path in (run / "checkpoints" / "0" / "state").rglob("*") if path.is_file())
    file.write_bytes(file.read_bytes() + b"x")
    assert followed(run) == [1, 2, 3]
    (said,) = [record.getMessage() for record in caplog.records if "is left out" in record.getMessage()]
    assert said.startswith("step 0 is left out: ") and "bytes instead of" in said


def test_other_text_has_a_file_of_its_own(run):
    asked = Asked(source=f"text:{run.parent}/other.txt", split="all", max_bytes=64)
    (run.parent / "other.txt").write_bytes(b"a cat saw no dog. " * 9)
    assert followed(run, asked) == [0, 1, 2, 3] == followed(run)
    (other,) = [path.name for path in (run / "evaluations").iterdir() if path.name != "follow.jsonl"]
    assert [line["bytes"] for line in lines(run, f"evaluations/{other}")] == [64] * 4
    assert lines(run)[0]["bytes"] != 64


def test_a_second_evaluator_of_the_same_is_refused(run):
    (run / "evaluations").mkdir()
    file = os.open(run / FILE, os.O_RDWR | os.O_CREAT)
    fcntl.flock(file, fcntl.LOCK_EX)
    try:
        with pytest.raises(UserError, match=r"follow.jsonl is being written by another eval --follow: stop that one"):
            followed(run)
    finally:
        os.close(file)


@pytest.mark.parametrize("bad", ['{"bpb": 1.0}', "7", '{"step": -1, "bpb": 1.0}'])
def test_a_line_that_is_none_is_named(run, bad):
    (run / "evaluations").mkdir()
    (run / FILE).write_text(f'{{"step": 0, "bpb": 1.0}}\n{bad}\n')
    with pytest.raises(UserError, match=r"follow.jsonl:2 is no line of eval --follow \(.*\): remove that line"):
        followed(run)
    assert RunFolder(run).followed == []


def test_text_that_cannot_be_read_ends_it(run):
    with pytest.raises(UserError, match="nowhere"):
        followed(run, Asked(source=f"text:{run}/nowhere/*.txt"))


def test_an_exported_model_cannot_be_followed(tmp_path):
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(UserError, match="is an exported model, which gets no new checkpoints: leave out --follow"):
        followed(tmp_path)
