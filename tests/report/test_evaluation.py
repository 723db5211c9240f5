"""What `scratchpatch eval` writes: evaluation.json and the page, neither at the cost of the result."""

import base64
import contextlib
import errno
import json
import shutil

import pytest

from scratchpatch import cli
from scratchpatch.checkpoints.writer import Checkpoints
from scratchpatch.evaluation.evaluate import evaluate
from scratchpatch.model import weights as weights_lib
from scratchpatch.report import evaluation as evaluation_lib, page
from scratchpatch.report.evaluation import write_evaluation
from tests import child, runs


@pytest.fixture(scope="module")
def untouched(tmp_path_factory):
    """(config, workdir) of a run with checkpoints of the steps 0 and 5."""
    config, workdir = runs.untrained(tmp_path_factory.mktemp("evaluation"), runs.SHALLOW | runs.BYTE_LEVEL)
    checkpoints = Checkpoints(workdir / "checkpoints", config, 2)
    checkpoints.save(5, weights_lib.random(config, 1))
    checkpoints.close()
    return config, workdir


@pytest.fixture
def workdir(untouched, tmp_path):
    """A run that no evaluation has written into."""
    return shutil.copytree(untouched[1], tmp_path / "run")


def eval_and_write(workdir, **options) -> dict:
    """The result, as `scratchpatch eval` makes and keeps it."""
    evaluation = evaluate(workdir, **options)
    write_evaluation(workdir, evaluation.comparisons(), step_named="step" in options)
    return evaluation.result


def written(workdir) -> dict[str, bytes]:
    files = [*workdir.glob("*.html"), *workdir.glob("evaluation*.json")]
    return {path.name: path.read_bytes() for path in files}


def test_a_report_says_what_was_read_and_no_lesser_one_takes_its_place(workdir):
    result = eval_and_write(workdir, max_bytes=300)
    document = json.loads((workdir / "evaluation.json").read_text())
    assert (document["step"], document["max_bytes"]) == (5, 300) and document["results"]["validation"] == result
    text = base64.b64decode(document["passage"]["text_base64"])
    assert text and {len(document["passage"][name]) for name in ("entropy", "commit", "scratchpad")} == {len(text)}
    assert set(document["passage"]["entropy"]) == {None}
    report = (workdir / "report.html").read_text()
    assert report.lower().startswith("<!doctype html")
    assert "at step 5 on" in report and "of each source the first 300" in report
    before = written(workdir)
    assert before.keys() == {"evaluation.json", "report.html"}
    other = eval_and_write(workdir, step=0, max_bytes=200, compressor_bytes=0)
    assert (other["step"], other["compressors"], other["max_bytes"]) == (0, None, 200)
    after = written(workdir)
    beside = {"evaluation_step_0_first_200_bytes.json", "report_step_0_first_200_bytes.html"}
    assert after.keys() == before.keys() | beside
    assert {name: after[name] for name in before} == before
    assert b"at step 0 on" in after["report_step_0_first_200_bytes.html"]


@pytest.mark.parametrize("flag", ["--override=trigger.stride=3", "--split=train", "--source=text:{}/../text/*.txt"])
def test_an_evaluation_of_anything_else_leaves_the_page(untouched, workdir, flag, capsys):
    flag = flag.format(untouched[1])
    assert cli.main(["eval", f"--workdir={workdir}", "--max_bytes=200", flag]) == 0
    assert "bpb" in capsys.readouterr().out and written(workdir) == {}


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device", "somewhere")


def test_a_full_disk_is_a_warning(workdir, monkeypatch, caplog):
    monkeypatch.setattr(evaluation_lib, "replace_text", full)
    eval_and_write(workdir, max_bytes=200)
    assert "evaluation.json is not written: No space left on device; the result is none the worse" in caplog.text
    assert written(workdir) == {}


def test_a_report_that_cannot_be_written_costs_nothing_else(workdir, monkeypatch, caplog):
    monkeypatch.setattr(page, "replace_text", full)
    result = eval_and_write(workdir, max_bytes=200)
    assert json.loads((workdir / "evaluation.json").read_text())["results"]["validation"] == result
    assert "report.html is not written: No space left on device" in caplog.text
    monkeypatch.undo()
    (workdir / "metrics.jsonl").write_text("what\n")
    (workdir / "evaluation.json").write_text('{"step": "x"}')
    assert eval_and_write(workdir, max_bytes=200)["bpb"] == result["bpb"]
    assert "metrics.jsonl:1" in caplog.text and "evaluation.json: step: Expected" in caplog.text


def test_a_workdir_that_is_removed_meanwhile_is_a_warning(workdir, caplog):
    evaluation = evaluate(workdir, max_bytes=200)
    shutil.rmtree(workdir)
    write_evaluation(workdir, evaluation.comparisons(), step_named=False)
    assert not workdir.exists()
    assert "evaluation.json is not written: No such file or directory" in caplog.text


def test_the_verb_prints_first_and_then_says_what_it_could_not_write(workdir, tmp_path, monkeypatch, capsys):
    """In the end the report is there, the result on standard output, and the exit code 1."""
    printed = []
    write = evaluation_lib.write_evaluation

    def watched(*arguments, **options):
        printed.append(capsys.readouterr().out)
        write(*arguments, **options)

    monkeypatch.setattr(evaluation_lib, "write_evaluation", watched)
    monkeypatch.setattr("scratchpatch.files.replace_text", full)
    arguments = ["eval", f"--workdir={workdir}", "--max_bytes=200", "--json", f"--output={tmp_path}/out.json"]
    assert cli.main(arguments) == 1
    out, err = capsys.readouterr()
    assert json.loads(printed[0])["bytes"] > 0 and printed[0].count("\n") == 1 and out == ""
    says = "out.json cannot be written: No space left on device; standard output has the result\n"
    assert f"scratchpatch: {tmp_path}/{says}" in err
    assert written(workdir).keys() == {"evaluation.json", "report.html"} and not (tmp_path / "out.json").exists()
    monkeypatch.undo()
    assert cli.main(arguments) == 0
    assert json.loads((tmp_path / "out.json").read_text()) == json.loads(capsys.readouterr().out)


def test_a_standard_output_that_cannot_be_written_is_one_line(workdir, monkeypatch, capsys):
    with open("/dev/full", "w") as nowhere:
        monkeypatch.setattr("sys.stdout", nowhere)
        code = cli.main(["eval", f"--workdir={workdir}", "--max_bytes=200"])
        monkeypatch.undo()
        with contextlib.suppress(OSError):
            nowhere.close()
    assert code == 1
    assert "scratchpatch: standard output cannot be written: No space left on device" in capsys.readouterr().err
    assert (workdir / "evaluation.json").exists()


@pytest.mark.parametrize(
    "present, step, step_named, max_bytes, suffix",
    [
        ({}, 200, True, None, ""),
        ({"step": 200, "max_bytes": None}, 200, True, None, ""),
        ({"step": 200, "max_bytes": None}, 300, False, None, ""),
        ({"step": 300, "max_bytes": None}, 200, True, None, "_step_200"),
        ({"step": 200}, 300, True, None, "_step_300"),
        ({"step": 200}, 200, False, 1000, "_step_200_first_1000_bytes"),
        ({"step": 200, "max_bytes": 1000}, 200, False, 999, "_step_200_first_999_bytes"),
        ({"step": 200, "max_bytes": 1000}, 300, False, 1000, ""),
        ({"step": 200, "max_bytes": 1000}, 200, False, None, ""),
        ({"step": 300, "max_bytes": 1000}, 200, True, 1000, "_step_200_first_1000_bytes"),
    ],
)
def test_what_an_evaluation_may_replace(present, step, step_named, max_bytes, suffix):
    assert evaluation_lib._suffix(present, step, step_named, max_bytes) == suffix


def test_two_evaluations_at_once_both_answer_and_leave_whole_files(workdir, tmp_path):
    program = "import sys; from scratchpatch import cli; sys.exit(cli.script())"
    argv = ["eval", f"--workdir={workdir}", "--json"]
    both = [child.Started(program, argv, tmp_path / f"{i}.log", 1) for i in range(2)]
    ended = [one.end(240) for one in both]
    assert [code for code, _ in ended] == [0, 0], ended
    answers = [json.loads(next(line for line in said.splitlines() if line.startswith("{"))) for _, said in ended]
    bits = json.loads((workdir / "evaluation.json").read_text())["results"]["validation"]["bpb"]
    assert [answer["bpb"] for answer in answers] == [bits, bits]
    assert (workdir / "report.html").read_text().rstrip().endswith("</html>")
    assert not list(workdir.glob("*.tmp"))
