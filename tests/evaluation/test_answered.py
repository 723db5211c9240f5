"""An evaluation that is asked again is answered from evaluation.json, and measured anew where anything differs."""

import json
import shutil

import pytest

from scratchpatch import cli
from scratchpatch.checkpoints.writer import Checkpoints
from scratchpatch.evaluation import evaluate, made_of
from scratchpatch.model import weights as weights_lib
from tests import runs


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """(config, workdir) of a run that was evaluated."""
    config, workdir = runs.untrained(tmp_path_factory.mktemp("answered"), runs.SHALLOW | runs.BYTE_LEVEL)
    assert ask(workdir) == 0
    return config, workdir


@pytest.fixture
def workdir(made, tmp_path):
    """A copy of it, beside the same text."""
    return shutil.copytree(made[1], tmp_path / "run")


def ask(workdir, *more) -> int:
    return cli.main(["eval", f"--workdir={workdir}", "--json", "--max_bytes=200", *more])


@pytest.fixture
def measured(monkeypatch):
    """The workdirs that were measured."""
    seen = []
    whole = evaluate.evaluate

    def watched(workdir, **options):
        seen.append(workdir)
        return whole(workdir, **options)

    monkeypatch.setattr(evaluate, "evaluate", watched)
    return seen


def test_the_same_question_is_answered_without_the_model(workdir, measured, tmp_path, capsys, caplog):
    caplog.set_level("INFO", logger="absl")
    before = {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()}
    assert ask(workdir, f"--output={tmp_path}/out.json") == 0
    result = json.loads(capsys.readouterr().out)
    assert measured == [] and f"answered before, in {workdir}/evaluation.json" in caplog.text
    assert result == json.loads((workdir / "evaluation.json").read_text())["results"]["validation"]
    assert result == json.loads((tmp_path / "out.json").read_text()) and result["bytes"] > 0
    assert {path: path.read_bytes() for path in workdir.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("flag", ["--max_bytes=150", "--compressor_bytes=0", "--split=train"])
def test_another_question_is_measured(workdir, measured, flag):
    assert ask(workdir, flag) == 0 and len(measured) == 1


def test_other_code_and_a_page_that_is_gone_are_measured(workdir, measured, monkeypatch):
    (workdir / "report.html").unlink()
    assert ask(workdir) == 0 and (workdir / "report.html").exists() and len(measured) == 1
    monkeypatch.setattr(made_of, "_code", lambda: "other")
    assert ask(workdir) == 0 and len(measured) == 2
    assert ask(workdir) == 0 and len(measured) == 2


def test_other_weights_are_measured(made, workdir, measured, capsys):
    checkpoints = Checkpoints(workdir / "checkpoints", made[0], 2)
    checkpoints.save(5, weights_lib.random(made[0], 1))
    checkpoints.close()
    for _ in range(2):
        assert ask(workdir) == 0 and json.loads(capsys.readouterr().out)["step"] == 5
    assert len(measured) == 1
    # Damaged, it is no answer to anything.
    largest = max((workdir / "checkpoints/5/state").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:-1])
    assert ask(workdir) == 0 and json.loads(capsys.readouterr().out)["step"] == 0
    assert len(measured) == 2
