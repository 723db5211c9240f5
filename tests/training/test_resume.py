"""A run that was stopped, in whatever way, and started again with the same command."""

import shutil
import signal
from pathlib import Path

import chex
import pytest

from scratchpatch.errors import UserError
from scratchpatch.training import loop
from scratchpatch.training.loop import train
from tests import child, runs

# Whatever training carries from step to step is at work: moments, a controller's thresholds, parts of a batch.
FIELDS = runs.SHALLOW | {
    "data.window": 144,
    "patching.kind": "entropy",
    "patching.threshold": 5.4,
    "patching.gain": 0.01,
    "trigger.gain": 0.01,
    "training.batch_rows": 16,
    "training.accumulation": 2,
    "training.checkpoint_every": 3,
}
STEPS = runs.FIELDS["training.steps"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds text, an experiment file, and `whole`: a run that nothing stopped."""
    folder = tmp_path_factory.mktemp("resume")
    runs.write_config(folder / "experiment.py", runs.config(folder, FIELDS))
    start(folder, "whole")
    return folder


def start(folder, name: str) -> str:
    """Run the command to its end in a process of its own; what it said so far."""
    log = folder / f"{name}.log"
    assert child.run(command(folder, folder / name), log) == 0, log.read_text()
    return log.read_text()


def command(folder, workdir) -> list[str]:
    return ["train", f"--config={folder / 'experiment.py'}", f"--workdir={workdir}"]


def assert_same_run(folder, workdir):
    """Every number of every step, and the state at the end, are those of the run that nothing stopped."""
    assert runs.lines(workdir) == runs.lines(folder / "whole")
    config = runs.config(folder, FIELDS)
    chex.assert_trees_all_equal(runs.state(workdir, config, STEPS), runs.state(folder / "whole", config, STEPS))


def test_the_run_that_nothing_stopped_moves_all_that_a_resumption_must_bring_back(folder):
    lines = runs.lines(folder / "whole")
    for name in ("bpb", "gradient_norm", "learning_rate", "patching_threshold", "trigger_threshold"):
        assert len({line[name] for line in lines if name in line}) > STEPS // 2, name
    assert runs.stored_steps(folder / "whole") == [STEPS - 3, STEPS]


def test_a_curriculum_goes_on_where_it_was(tmp_path):
    fields = {
        "model.encoder.layers": 1,
        "model.smoothing": True,
        "patching.kind": "learned",
        "patching.ratio_weight": 1.0,
        "patching.curriculum_steps": 5,
        "trigger.kind": "none",
        "model.entropy_head.weight": 0.0,
        "optimizer.schedule": "constant",
        "optimizer.warmup_steps": 0,
    }
    for name, stops in (("whole", (6,)), ("stopped", (3, 6))):
        for steps in stops:
            train(runs.config(tmp_path, runs.SHALLOW | fields | {"training.steps": steps}), tmp_path / name)
    rows = runs.lines(tmp_path / "whole")
    assert len({line["ratio_loss"] for line in rows if "ratio_loss" in line}) == 6
    # But for the validation that ends the shorter run.
    assert rows == [line for line in runs.lines(tmp_path / "stopped") if line["step"] != 3 or "bpb" in line]


def test_a_run_killed_at_any_moment_continues_as_if_it_never_was(folder):
    workdir, log = folder / "killed", folder / "killed.log"
    # Where the kill strikes, and what it leaves in the folder of checkpoints.
    kills = [
        (("line", 2), []),  # before the first checkpoint
        (("saving", 3), ["3.partial"]),
        (("line", 5), ["3"]),  # between two
        (("renaming", 6), ["3", "6.partial"]),
        (("removing", 3), ["3.deleted", "6", "9"]),
        (("validation", STEPS), ["6", "9"]),  # all lines are written, the last state is not
    ]
    for moment, left in kills:
        assert child.run(command(folder, workdir), log, moment) == -signal.SIGKILL, log.read_text()
        assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == left, moment
    said = start(folder, "killed").splitlines()
    assert_same_run(folder, workdir)
    starts = [line for line in said if line.startswith(("training from", "resumed at"))]
    assert starts == ["training from random weights"] * 3 + [f"resumed at step {step}" for step in (3, 3, 9, 9)]


def test_a_machine_lost_while_a_step_was_copied_continues_from_the_durable_tier(folder):
    workdir, log, durable = folder / "lost", folder / "lost.log", folder / "lost.durable"
    line = [*command(folder, workdir), f"--config.training.durable_dir={durable}"]
    assert child.run(line, log, ("copying", 6)) == -signal.SIGKILL, log.read_text()
    assert sorted(path.name for path in durable.iterdir()) == ["3", "6.partial", "run"]
    shutil.rmtree(workdir)
    assert child.run(line, log) == 0, log.read_text()
    assert f"step 3 comes from {durable}" in log.read_text() and "resumed at step 3" in log.read_text()
    assert_same_run(folder, workdir)
    assert sorted(path.name for path in durable.iterdir()) == [str(STEPS), str(STEPS - 3), "run"]


def test_signals_save_and_exit_as_is_told_and_the_run_resumes(folder):
    """One after the other, each at another step; the last one saves and goes on."""
    workdir, log = folder / "told", folder / "told.log"
    line = [*command(folder, workdir), "--stopped_code=75"]
    for sent, after in ((signal.SIGTERM, 1), (signal.SIGINT, 4), (signal.SIGHUP, 7)):
        assert child.run(line, log, ("line", after), sent) == 75, log.read_text()
        # The step after the one whose line was written is on its way when the signal comes.
        step = after + 1
        assert runs.stored_steps(workdir)[-1] == step
        said = f"stopped by {sent.name} at step {step} of {STEPS}; the same command goes on from there"
        assert said in log.read_text().splitlines()
        assert [line["step"] for line in runs.lines(workdir)] == list(range(1, step + 1))
    assert child.run(line, log, ("line", 9), signal.SIGUSR1) == 0
    assert runs.stored_steps(workdir) == [10, STEPS]
    assert_same_run(folder, workdir)


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(folder):
    workdir = folder / "damaged"
    shutil.copytree(folder / "whole", workdir)
    newest = workdir / "checkpoints" / str(STEPS)
    largest = max((newest / "state").rglob("*"), key=lambda path: path.stat().st_size if path.is_file() else 0)
    largest.write_bytes(largest.read_bytes()[:-1])
    said = start(folder, "damaged")
    assert f"checkpoint {newest} is damaged" in said and f"using step {STEPS - 3}" in said
    assert_same_run(folder, workdir)


def test_a_finished_run_says_so_and_stays_as_it_is_whatever_fields_are_free(folder, caplog, monkeypatch):
    """Nothing of its model is traced."""
    monkeypatch.setattr(loop, "Trainer", None)
    workdir = folder / "finished"
    shutil.copytree(folder / "whole", workdir)
    free = {"training.eval_every": 5, "training.checkpoint_every": 1, "training.keep_last": 1, "data.threads": 2}
    caplog.set_level("INFO", logger="absl")
    train(runs.config(folder, FIELDS | free), workdir)
    assert f"{workdir} is finished: {STEPS} steps" in caplog.text
    assert_same_run(folder, workdir)


def test_a_workdir_of_another_experiment_is_refused_with_the_difference(folder):
    before = (folder / "whole" / "config.json").read_bytes()
    other = runs.config(folder, FIELDS | {"training.batch_rows": 8, "trigger.kind": "none"})
    with pytest.raises(UserError) as caught:
        train(other, folder / "whole")
    assert "trigger.kind: 'entropy' -> 'none'; training.batch_rows: 16 -> 8" in str(caught.value)
    assert "--workdir" in str(caught.value)
    assert (folder / "whole" / "config.json").read_bytes() == before


def test_a_text_that_changed_is_refused_by_name(folder, tmp_path):
    workdir = runs.rewind(folder / "whole", 9, tmp_path / "run")
    config = runs.config(folder, FIELDS)
    file = next((folder / "text").glob("*.txt"))
    data = file.read_bytes()
    try:
        file.write_bytes(data[:-1] + b"!")
        with pytest.raises(UserError, match="is not what .* was trained on") as caught:
            train(config, workdir)
    finally:
        file.write_bytes(data)
    assert config.data.sources[0][0] in str(caught.value)


def test_a_run_goes_on_with_another_number_of_devices(folder, tmp_path, monkeypatch):
    """From step 9 on one device to the end on four, over which the parameters are sharded."""
    runs.leave_out_audit(monkeypatch.setattr)
    workdir = runs.rewind(folder / "whole", 9, tmp_path / "run")
    train(runs.config(folder, FIELDS | {"mesh.data": 2, "mesh.fsdp": 2}), workdir)
    resumed, whole = runs.lines(workdir), runs.lines(folder / "whole")
    assert resumed[:9] == whole[:9] and [line["step"] for line in resumed] == [line["step"] for line in whole]
    # Other roundings may move a decision on the edge of a threshold.
    names = ("bpb", "head_bpb", "bytes", "learning_rate", "patching_threshold")
    got, wanted = ({name: [line.get(name, 0) for line in lines] for name in names} for lines in (resumed, whole))
    chex.assert_trees_all_close(got, wanted, rtol=2e-3)
    config = runs.config(folder, FIELDS)
    got, wanted = (runs.state(run, config, STEPS)["params"] for run in (workdir, folder / "whole"))
    chex.assert_trees_all_close(got, wanted, atol=2e-2)
