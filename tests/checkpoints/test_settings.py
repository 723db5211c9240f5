"""Runs whose length and optimizer change when they resume, and runs that branch off another one's checkpoint."""

import json
import shutil
from pathlib import Path

import chex
import numpy as np
import pytest

from scratchpatch import config as config_lib, config_file
from scratchpatch.checkpoints import run_text, settings
from scratchpatch.errors import UserError
from scratchpatch.report.page import write_report
from scratchpatch.training import optimizer, start
from scratchpatch.training.loop import train
from tests import runs

STEPS = 8
FIELDS = runs.ENTROPY_MODEL | {
    "model.encoder.layers": 0,
    "optimizer.schedule": "wsd",
    "training.steps": STEPS,
    "training.eval_bytes": 64,
    "training.checkpoint_every": 2,
    "training.keep_last": 9,
}
CHANGED = {
    "training.steps": 12,
    "optimizer.schedule": "cosine",
    "optimizer.learning_rate": 5e-3,
    "optimizer.weight_decay": 0.0,
    "optimizer.b1": 0.5,
    "optimizer.clip_norm": 0.0,
    "training.loss_spike": 5.0,
}


@pytest.fixture(scope="module", autouse=True)
def quick():
    with pytest.MonkeyPatch.context() as patch:
        runs.leave_out_audit(patch.setattr)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Holds text, the finished run `whole`, and `more`: a copy of it that went on with other settings."""
    folder = tmp_path_factory.mktemp("settings")
    train(config(folder), folder / "whole")
    shutil.copytree(folder / "whole", folder / "more")
    train(config(folder, CHANGED), folder / "more")
    return folder


def config(folder, fields=None):
    return runs.config(folder, FIELDS | (fields or {}))


def training(workdir):
    return [line for line in runs.lines(workdir) if "bpb" in line]


def assert_same_run(folder, fields, workdir, other):
    made = config(folder, fields)
    steps = made.training.steps
    assert training(workdir) == training(other) and len(training(workdir)) == steps
    chex.assert_trees_all_equal(runs.state(workdir, made, steps), runs.state(other, made, steps))


def test_a_finished_run_goes_on_with_more_steps_and_other_settings_from_then_on(folder):
    assert training(folder / "more")[:STEPS] == training(folder / "whole")
    before, after = (optimizer.schedule(config(folder, fields)) for fields in ({}, CHANGED))
    rates = [line["learning_rate"] for line in training(folder / "more")]
    assert rates == [before(i) for i in range(STEPS)] + [after(i) for i in range(STEPS, 12)]
    assert (rates[STEPS - 1], rates[11]) == (1e-3, 5e-4)
    history = settings.read(folder / "more")
    assert [step for step, _ in history] == [0, STEPS]
    assert {name: history[1][1][name] for name in CHANGED} == CHANGED
    assert config_file.read(folder / "more" / "config.json").training.steps == 12


def test_steps_before_a_change_that_are_done_again_are_what_they_were(folder, tmp_path):
    """The checkpoints from the change on are lost: steps 4 to 7 are taken by the settings that held then."""
    again = runs.rewind(folder / "more", 4, tmp_path / "again")
    train(config(folder, CHANGED), again)
    assert_same_run(folder, CHANGED, again, folder / "more")
    assert settings.read(again) == settings.read(folder / "more")


def test_what_else_changes_is_still_refused(folder):
    with pytest.raises(UserError, match="holds another experiment: seed: 0 -> 1; use"):
        train(config(folder, {"seed": 1, "optimizer.learning_rate": 1.0}), folder / "whole")


def test_the_report_tells_what_changed(folder):
    page = write_report(folder / "more").read_text()
    for words in (f"step {STEPS} on", "optimizer.learning_rate: 0.01 -&gt; 0.005", "training.steps: 8 -&gt; 12"):
        assert words in page
    assert "Changes" not in write_report(folder / "whole").read_text()


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "[]",
            "{}",
            "null",
            "[[3, {}]]",
            "[[0, {}], [0, {}]]",
            "[[0]]",
            "[[0, {}, 1]]",
            "[[-1, {}]]",
            "[[0, {}], [1.5, {}]]",
            "[[0, []]]",
        ),
        *(
            '[[0, {"training.steps": "x"}]]',
            '[[0, {"training.steps": null}]]',
            '[[0, {"optimizer.learning_rate": NaN}]]',
        ),
        *('[[0, {"seed": 1}]]', '[[0, {"training.colour": 1}]]', "[" * 5000, "[[0, {}], [" + "9" * 5000 + ", {}]]"),
    ],
)
def test_a_history_that_cannot_be_read_is_named(tmp_path, text):
    (tmp_path / "settings.json").write_text(text)
    with pytest.raises(UserError, match=f"cannot read {tmp_path}/settings.json"):
        settings.read(tmp_path)


def test_a_branch_is_the_run_that_was_never_divided(folder, monkeypatch):
    """Of a checkpoint in the middle, without a change: every number of every line, and the state, bit for bit."""
    monkeypatch.chdir(folder)
    fields = {"training.continue_from": "whole@4"}
    train(config(folder, fields), folder / "same")
    assert runs.stored_steps(folder / "same") == [6, 8]
    assert config_file.read(folder / "same" / "config.json").training.continue_from == f"{folder}/whole@4"
    assert_same_run(folder, fields, folder / "same", folder / "whole")


def test_a_decay_branches_off_a_stable_run(folder, tmp_path, monkeypatch):
    """As a copy of the run that resumes there with the same change does; and the branch itself resumes as any run."""
    decay = {"training.steps": 7, "optimizer.decay_share": 0.5}
    resumed = runs.rewind(folder / "whole", 4, tmp_path / "resumed")
    train(config(folder, decay), resumed)
    fields = decay | {"training.continue_from": f"{folder}/whole@4"}
    train(config(folder, fields), tmp_path / "branch")
    assert_same_run(folder, fields, tmp_path / "branch", resumed)
    assert settings.read(tmp_path / "branch") == settings.read(resumed) != settings.read(folder / "whole")
    rates = [line["learning_rate"] for line in training(resumed)][3:]
    np.testing.assert_allclose(rates, [0.008125, 0.01, 0.0055, 0.001], rtol=1e-6)
    # Once it has a checkpoint of its own, it needs the other run no more.
    again = runs.rewind(tmp_path / "branch", 6, tmp_path / "again")
    monkeypatch.setattr("scratchpatch.training.start.restore_branch", lambda *_: pytest.fail("read the other run"))
    train(config(folder, fields), again)
    assert_same_run(folder, fields, again, resumed)


def test_a_branch_of_a_mixture_keeps_its_place_under_the_weights_that_it_had(folder, tmp_path):
    """The other run changed its weights twice; the branch leaves it between the changes."""
    data = json.loads((folder / "whole" / "data.json").read_text())
    shutil.copytree(folder / "whole", tmp_path / "mixed")
    data["weights"] = [[0, [2.0]], [3, [1.0]], [6, [4.0]]]
    (tmp_path / "mixed" / "data.json").write_text(json.dumps(data))
    (tmp_path / "branch").mkdir()
    start.begin_branch(config(folder, {"training.continue_from": f"{tmp_path}/mixed@4"}), tmp_path / "branch")
    branched = json.loads((tmp_path / "branch" / "data.json").read_text())
    assert branched == data | {"weights": [[0, [2.0]], [3, [1.0]]]}
    assert run_text.weights(tmp_path / "branch", [3.0], 4) == [(0, [2.0]), (3, [1.0]), (4, [3.0])]


@pytest.mark.parametrize(
    "fields, words",
    [
        ({"training.continue_from": "{whole}@5"}, r"no checkpoint of step 5; stored steps: 2, 4, 6, 8"),
        (
            {"training.continue_from": "{whole}@4", "model.trunk.d_model": 48},
            r"another experiment: model.trunk.d_model: 32 -> 48; .*init_from",
        ),
        (
            {"training.continue_from": "{whole}@4", "training.steps": 4},
            r"training.steps = 4 leaves nothing to do after step 4",
        ),
        ({"training.continue_from": "{whole}"}, r"training.continue_from = '.*whole' must be RUN@STEP"),
        (
            {"training.continue_from": "{whole}@4", "training.init_from": "x"},
            r"init_from = 'x' and training.continue_from .* keep one",
        ),
        ({"training.continue_from": "{whole}x@4"}, r"wholex is no workdir"),
    ],
)
def test_a_branch_that_cannot_be_is_named_and_leaves_no_run(folder, tmp_path, fields, words):
    fields = {
        name: value.format(whole=folder / "whole") if isinstance(value, str) else value
        for name, value in fields.items()
    }
    made = runs.config(folder, FIELDS)
    for name, value in fields.items():
        config_lib.set_field(made, name, value)
    with pytest.raises(UserError, match=words):
        train(made, tmp_path / "run")
    assert not list(tmp_path.glob("run/*.json"))


def test_a_branch_on_other_text_is_refused(folder, tmp_path):
    shutil.copytree(folder / "text", tmp_path / "before")
    file = next((folder / "text").glob("*.txt"))
    try:
        file.write_bytes(file.read_bytes()[:-1] + b"!")
        with pytest.raises(UserError, match="is not what .* was trained on"):
            train(config(folder, {"training.continue_from": f"{folder}/whole@4"}), tmp_path / "run")
    finally:
        shutil.copytree(tmp_path / "before", folder / "text", dirs_exist_ok=True)
