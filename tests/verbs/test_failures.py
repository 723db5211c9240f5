"""A failure is one line on standard error and exit code 1; a defect keeps its traceback."""

import os
import sys

import pytest

from scratchpatch import cli
from scratchpatch.errors import UserError
from tests.verbs.commands import Stream, raises, wrong

LESS = "a smaller batch, window or model needs less"


@pytest.mark.parametrize(
    "argv",
    [
        ["eval"],
        ["calibrate", "--target_bytes_per_patch=6"],
        ["inspect", "--text=x"],
        ["generate", "--prompt=x"],
        ["serve"],
        ["report"],
        ["checkpoint", "list"],
    ],
)
def test_missing_workdir_fails_with_one_line(capsys, tmp_path, argv):
    assert cli.main([*argv, f"--workdir={tmp_path}/none"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"scratchpatch: --workdir={tmp_path}/none: no such folder: scratchpatch train makes one\n"


def test_missing_text_fails_with_one_line(capsys, workdir):
    assert cli.main(["inspect", f"--workdir={workdir}", "--text=no.txt"]) == 1
    assert capsys.readouterr().err == "scratchpatch: --text=no.txt: no such file\n"


@pytest.mark.parametrize("package", ["starlette", "uvicorn"])
def test_serve_says_what_to_install(capsys, monkeypatch, workdir, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(["serve", f"--workdir={workdir}"]) == 1
    out, err = capsys.readouterr()
    assert out == "" and f"scratchpatch serve needs the package {package}, which is not installed" in err
    assert "pip install 'scratchpatch[serve]', or bash launch/setup.sh serve" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("the loss\nis not finite"), 1, "scratchpatch: the loss is not finite\n"),
        (PermissionError(13, "Permission denied", "runs/x"), 1, "scratchpatch: runs/x: Permission denied\n"),
        (KeyboardInterrupt(), 130, "scratchpatch: interrupted\n"),
        (BrokenPipeError(32, "Broken pipe"), 1, ""),
        (OSError(28, "No space left on device"), 1, "scratchpatch: No space left on device\n"),
        (OSError("no file name"), 1, "scratchpatch: no file name\n"),
        (TimeoutError(), 1, "scratchpatch: TimeoutError\n"),
        (MemoryError(), 1, f"scratchpatch: this machine's memory does not suffice: {LESS}\n"),
        (MemoryError("8 TiB"), 1, f"scratchpatch: this machine's memory does not suffice (8 TiB): {LESS}\n"),
        # Names of files are anyone's: nothing of them steers the terminal that shows the line.
        (
            UserError("cannot read /x/\x1b]0;owned\x07\x1b[2J\u202etxt.exe\udcff\r\n: no"),
            1,
            "scratchpatch: cannot read /x/\\x1b]0;owned\\x07\\x1b[2J\\u202etxt.exe\\xff : no\n",
        ),
    ],
)
def test_failures_of_a_verb_are_one_line(capsys, stand_in, config_file, error, code, line):
    stand_in("scratchpatch.training.loop", train=raises(error))
    assert cli.main(["train", f"--config={config_file}", "--workdir=x"]) == code
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("error", [ZeroDivisionError(), SystemExit(0)])
def test_defects_and_exits_pass_through(stand_in, config_file, error):
    stand_in("scratchpatch.training.loop", train=raises(error))
    with pytest.raises(type(error)):
        cli.main(["train", f"--config={config_file}", "--workdir=x"])


def test_what_is_nested_too_deep_is_one_line(capsys, stand_in, config_file):
    stand_in("scratchpatch.training.loop", train=raises(RecursionError("maximum recursion depth exceeded")))
    assert cli.main(["train", f"--config={config_file}", "--workdir=x"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("scratchpatch: something that was read is nested too deep (") and said.count("\n") == 1
    deep = "(" * 3000 + ")" * 3000
    assert "data.sources = ('((((" in wrong(capsys, "audit", f"--config={config_file}", f"--config.data.sources={deep}")
    said = wrong(capsys, "eval", "--workdir=x", f"--override=data.sources={deep}")
    assert "data.sources takes a value of type tuple" in said


def test_json_of_a_failure_is_empty(capsys, stand_in, workdir):
    stand_in("scratchpatch.evaluation.evaluate", evaluate=raises(UserError("no checkpoint")))
    assert cli.main(["eval", f"--workdir={workdir}", "--json"]) == 1
    assert capsys.readouterr() == ("", "scratchpatch: no checkpoint\n")


def test_standard_output_that_is_full_is_one_line(capsys, monkeypatch, stand_in, config_file):
    class Full(Stream):
        def flush(self):
            raise OSError(28, "No space left on device")

    stand_in("scratchpatch.accounting.account", account=lambda c: {}, text=lambda d: "a table")
    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    assert cli.main(["account", f"--config={config_file}"]) == 1
    assert capsys.readouterr().err == "scratchpatch: standard output cannot be written: No space left on device\n"
