"""Tasks that are measured while training goes on: the run is bit for bit that without them, whatever they do."""

import dataclasses
import json
import os
import signal
from typing import Any, ClassVar

import jax
import numpy as np
import pytest

from scratchpatch import config as config_lib
from scratchpatch.errors import UserError
from scratchpatch.tasks import names
from scratchpatch.tasks.task import Task
from scratchpatch.training import goodput
from scratchpatch.training.loop import train
from scratchpatch.training.notices import Notices
from tests import runs
from tests.tasks.models import Letters
from tests.training.test_processes import ends, start

STEPS = 6
FIELDS = runs.SHALLOW | {"training.steps": STEPS, "training.checkpoint_every": 2}
ASKED = {
    "evaluation.every": 2,
    "evaluation.limit": 3,
}


@dataclasses.dataclass(frozen=True)
class Odd(Task):
    """A task whose source says what it does."""

    name: ClassVar[str] = "odd"
    asked: ClassVar[list[str]] = []

    def protocol(self) -> dict[str, Any]:
        if self.source == "unreadable":
            raise UserError("questions.jsonl:3: is no question")
        return {}

    def run(self, setting):
        self.asked.append(self.source)
        if self.source == "fails":
            raise ZeroDivisionError("nothing\nto divide by")
        if self.source == "stops":
            os.kill(os.getpid(), signal.SIGTERM)
        if self.source == "exits":
            raise SystemExit(3)
        setting.moved()
        groups = {"a": {"accuracy": 0.0}}
        share = {"mean": 0.5, "stderr": None, "best": True}
        return {"items": np.int64(2), "share": share, "groups": groups, "text": "x", "bad": float("nan")}


@pytest.fixture(autouse=True)
def tasks(monkeypatch):
    runs.leave_out_audit(monkeypatch.setattr)
    monkeypatch.setitem(names.TASKS, "letters", Letters)
    monkeypatch.setitem(names.TASKS, "odd", Odd)
    Odd.asked.clear()


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("calm")
    with pytest.MonkeyPatch.context() as patch:
        runs.leave_out_audit(patch.setattr)
        assert train(runs.config(folder, FIELDS), folder / "run")
    return folder


def made(calm, *tasks, **fields):
    return runs.config(calm, FIELDS | ASKED | {"evaluation.tasks": tasks} | fields)


def measured(workdir):
    """Step to the numbers of tasks."""
    lines = [line for line in runs.lines(workdir) if any(name.startswith("task/") for name in line)]
    return {line.pop("step"): line for line in lines}


def assert_as_calm(calm, workdir, config):
    training = [line for line in runs.lines(workdir) if not any(name.startswith("task/") for name in line)]
    assert training == runs.lines(calm / "run")
    states = [runs.state(each, config, STEPS) for each in (workdir, calm / "run")]
    for a, b in zip(*map(jax.tree.leaves, states), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_numbers_come_by_step_and_change_nothing(calm, tmp_path):
    options = {"evaluation.options": ("letters.count=5",)}
    workdir, config = tmp_path / "run", made(calm, "letters", "odd:fine", **options)
    assert train(config, workdir)
    assert_as_calm(calm, workdir, config)
    found = measured(workdir)
    assert list(found) == [2, 4, 6]
    odd = {"task/odd:fine/items": 2, "task/odd:fine/share/mean": 0.5}
    for numbers in found.values():
        assert numbers == {"task/letters/items": 3} | odd
    spent = [json.loads(line)["spent"] for line in (workdir / "goodput.jsonl").read_text().splitlines()]
    assert sum("tasks" in kinds for kinds in spent) == 3
    assert ", tasks " in goodput.text(goodput.account(workdir))
    assert "tasks" not in goodput.text(goodput.account(calm / "run"))
    assert not (workdir / "evaluations").exists()


def test_what_fails_is_reported_once_and_left_out(calm, tmp_path, caplog):
    workdir, config = tmp_path / "run", made(calm, "odd:fails", "odd:unreadable", "odd:fine")
    assert train(config, workdir)
    assert_as_calm(calm, workdir, config)
    assert Odd.asked == ["fails", "fine", "fine", "fine"]
    warnings = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert warnings == [
        "the task odd:fails is left out from step 2 on: ZeroDivisionError: nothing to divide by",
        "the task odd:unreadable is left out from step 2 on: questions.jsonl:3: is no question",
    ]
    assert list(measured(workdir)) == [2, 4, 6]


def test_a_signal_does_not_wait_for_a_task(calm, tmp_path):
    """The run stops, saved; its tasks may be others when it goes on, at other steps."""
    workdir = tmp_path / "run"
    with Notices() as notices:
        assert not train(made(calm, "odd:fine", "odd:stops"), workdir, notices=notices)
    assert list(measured(workdir)) == [2] and runs.stored_steps(workdir) == [2]
    config = made(calm, "odd:other", **{"evaluation.every": 4})
    assert train(config, workdir)
    assert_as_calm(calm, workdir, config)
    found = {step: next(iter(numbers)) for step, numbers in measured(workdir).items()}
    assert found == {2: "task/odd:fine/items", 4: "task/odd:other/items", 6: "task/odd:other/items"}


def test_what_ends_the_process_is_no_failure_of_a_task(calm, tmp_path):
    with pytest.raises(SystemExit):
        train(made(calm, "odd:exits"), tmp_path / "run")


def test_a_wrong_name_or_option_ends_the_start(calm, tmp_path):
    for fields, said in (
        ({"evaluation.tasks": ("leters",)}, "no task 'leters': did you mean 'letters'"),
        ({"evaluation.options": ("letters.count=few",)}, "letters.count=few"),
        ({"evaluation.tasks": (3,)}, "wanted texts, such as"),
    ):
        with pytest.raises(UserError, match=said):
            train(made(calm, "letters", **fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_never_measures_asks_nothing(calm, tmp_path):
    assert train(made(calm, "odd:fine", **{"evaluation.every": 0}), tmp_path / "run")
    assert not Odd.asked and not measured(tmp_path / "run")


# As `-m scratchpatch`, but for the audit, for weights that count as large, and for a task that fails where its source
# says: in the protocol in one process alone, or as it runs in all of them.
SEVERAL = """
import dataclasses, sys
import jax
from scratchpatch import cli
from scratchpatch.tasks import names
from scratchpatch.tasks.task import Task
from scratchpatch.training import loop
from tests import runs

@dataclasses.dataclass(frozen=True)
class Fails(Task):
    name = "fails"

    def protocol(self):
        if self.source == "there" and jax.process_index() == 1:
            raise FileNotFoundError("not here")
        return {}

    def run(self, setting):
        raise ZeroDivisionError("everywhere")

loop._COPIED_BYTES = SIZE
names.TASKS["fails"] = Fails
runs.leave_out_audit()
sys.exit(cli.script())
"""


@pytest.mark.parametrize("copied", [0, 1 << 30])
def test_processes_measure_together_what_one_measures(tmp_path, copied):
    (tmp_path / "task.txt").write_text("the cat sat on a mat, and saw no dog; " * 5)
    # One program of documents, and one of generated bytes.
    asked = (f"bpb:{tmp_path}/task.txt", "fails:there", "fails:everywhere", "utf8")
    tasks = {"evaluation.every": 2, "evaluation.tasks": asked}
    tasks["evaluation.options"] = ("utf8.samples=2", "utf8.bytes=6")
    fields = runs.SHALLOW | tasks | {"training.steps": 2, "training.batch_rows": 4, "mesh.data": -1}
    config = runs.config(tmp_path, fields)
    (tmp_path / "config.json").write_text(json.dumps({"config": config_lib.flat(config)}))
    ended = ends(start(tmp_path, "two", 2, 2, program=SEVERAL.replace("SIZE", str(copied))))
    assert [code for code, _ in ended] == [0, 0], ended
    there = "not here" if copied == 0 else "ZeroDivisionError: everywhere"
    assert "the task fails:there is left out from step 2 on: " in ended[0][1] and there in ended[0][1]
    assert "the task fails:everywhere is left out from step 2 on: ZeroDivisionError: everywhere" in ended[0][1]
    one = config_lib.from_flat(config_lib.flat(config) | {"evaluation.tasks": (asked[0], "utf8"), "mesh.data": 1})
    assert train(one, tmp_path / "one")
    two, one = (measured(tmp_path / name)[2] for name in ("two", "one"))
    assert two.keys() == one.keys() and one["task/utf8/bytes"] > 0
    for name in ("task/bpb:task/bpb", "task/bpb:task/bytes", "task/utf8/bytes", "task/utf8/invalid_bytes"):
        assert two[name] == pytest.approx(one[name], rel=2e-5), name
