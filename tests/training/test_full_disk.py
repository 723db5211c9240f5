"""A run whose disk is full, for one writer after the other: it ends as the calm one, or stops and resumes."""

import jax
import numpy as np
import pytest

from scratchpatch.checkpoints import durable, format
from scratchpatch.errors import UserError
from scratchpatch.training import appended, goodput, loop
from scratchpatch.training.loop import train
from tests import runs
from tests.full_disk import NO_SPACE, Disk

FIELDS = runs.SHALLOW | {
    "training.steps": 8,
    "training.eval_every": 4,
    "training.checkpoint_every": 2,
    "training.keep_last": 9,
}


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calm")
    with pytest.MonkeyPatch.context() as patch:
        quick(patch)
        assert train(made(folder), folder / "run")
    return folder


@pytest.fixture(autouse=True)
def quick_here(monkeypatch):
    quick(monkeypatch)


def quick(patch):
    runs.leave_out_audit(patch.setattr)
    patch.setattr(appended, "_AGAIN", 0.0)
    patch.setattr(durable, "_PAUSES", (0.01,))


def made(folder):
    return runs.config(folder, FIELDS | {"training.durable_dir": str(folder / "durable")})


def raising(error):
    def fail(*_):
        raise error

    return fail


def assert_as_calm(folder, calm):
    """Every number of the metrics, and every bit of the last state."""
    assert runs.lines(folder / "run") == runs.lines(calm / "run")
    states = [runs.state(each / "run", made(each), 8) for each in (folder, calm)]
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_what_lies_beside_the_checkpoints_is_no_reason_to_stop(tmp_path, monkeypatch, caplog, calm):
    caplog.set_level("INFO", logger="absl")
    some = Disk(monkeypatch.setattr, "metrics.jsonl", "tfevents", room=1000)
    Disk(monkeypatch.setattr, "goodput.jsonl", room=100)
    advance = loop.Progress.advance

    def free_at_last(self, *given):
        advance(self, *given)
        if self._done == 7:
            assert len(runs.lines(tmp_path / "run")) < 7
            some.room = None

    monkeypatch.setattr(loop.Progress, "advance", free_at_last)
    monkeypatch.setattr(durable, "copy", raising(NO_SPACE))
    assert train(made(tmp_path), tmp_path / "run")
    assert_as_calm(tmp_path, calm)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    for what in ("metrics.jsonl", "tfevents", "goodput.jsonl", "cannot copy step 2 to"):
        assert len([said for said in warnings if what in said and "No space left" in said]) == 1, (what, warnings)
    assert len(warnings) == 4
    assert "metrics.jsonl is written again: nothing is missing" in caplog.text
    assert (
        "goodput.jsonl lacks what could not be written" in caplog.text
        and "does not have the last steps: " in caplog.text
    )
    assert goodput.account(tmp_path / "run") is None


def test_a_checkpoint_that_cannot_be_written_ends_the_run_in_a_line_and_it_resumes_as_the_calm_one(
    tmp_path, monkeypatch, calm
):
    write_about = format.write_about

    def full(step, about):
        if about["step"] >= 4:
            raise NO_SPACE
        write_about(step, about)

    with monkeypatch.context() as patch:
        # The lines of the steps that are stored are there.
        Disk(patch.setattr, "metrics.jsonl", room=1400)
        Disk(patch.setattr, "tfevents", "goodput.jsonl", room=300)
        patch.setattr(format, "write_about", full)
        says = "cannot write checkpoints into .*No space left on device; free space there"
        with pytest.raises(UserError, match=says):
            train(made(tmp_path), tmp_path / "run")
    assert runs.stored_steps(tmp_path / "run") == [2]
    # Its room is free for what comes.
    assert not list(tmp_path.glob("run/checkpoints/*.partial"))
    assert train(made(tmp_path), tmp_path / "run")
    assert_as_calm(tmp_path, calm)
