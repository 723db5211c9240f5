"""The command line, with stand-ins for the functions behind the verbs."""

import io
import json
import os
import subprocess
import sys
import time
import types

import pytest
from absl import flags as absl_flags
from absl import logging as absl_logging

from scratchpatch import cli, config, places
from scratchpatch.errors import UserError
from scratchpatch.verbs import VERBS

CONFIG_VERBS = [name for name, verb in VERBS.items() if verb.config]


@pytest.fixture
def config_file(tmp_path):
    path = tmp_path / "experiment.py"
    path.write_text("from scratchpatch import config\n\n\ndef get_config():\n    return config.default()\n")
    return str(path)


@pytest.fixture
def workdir(tmp_path):
    path = tmp_path / "run"
    path.mkdir()
    return str(path)


@pytest.fixture
def stand_in(monkeypatch):
    """Put functions in the place of a module: stand_in('scratchpatch.x.y', f=...) -> the calls made."""

    def place(module, **functions):
        calls = []

        def recorded(function):
            def call(*args, **kwargs):
                calls.append((args, kwargs))
                return function(*args, **kwargs)

            return call

        fake = types.ModuleType(module)
        for name, function in functions.items():
            setattr(fake, name, recorded(function))
        monkeypatch.setitem(sys.modules, module, fake)
        return calls

    return place


def raises(error):
    def function(*_, **__):
        raise error

    return function


def wrong(capsys, *argv):
    """Run a command line that is wrong usage; the one line that it says."""
    assert cli.main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("scratchpatch: ") and err.count("\n") == 1
    return err


# help


def test_help_lists_every_verb_with_an_example(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert f"  {name} " in text and verb.summary in text and f"scratchpatch {name}" in text


@pytest.mark.parametrize("name", VERBS)
def test_help_of_a_verb_teaches_flags_examples_and_exit_codes(capsys, name):
    assert cli.main([name, "--help"]) == 0
    text = capsys.readouterr().out
    for words in (VERBS[name].summary, "usage: scratchpatch " + name, "flags:", "examples:", "exit codes:"):
        assert words in text
    assert all(f"  --{flag}  (required)" in text for flag in VERBS[name].required)
    assert (config.describe() in text) == VERBS[name].config


def test_no_verb_shows_the_help_as_wrong_usage(capsys):
    assert cli.main([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "verbs:" in err


# wrong usage


def test_unknown_verb_names_the_nearest(capsys):
    assert "no verb 'trian'; the nearest is 'train'" in wrong(capsys, "trian")


def test_unknown_flag_names_the_nearest(capsys):
    err = wrong(capsys, "eval", "--wrokdir=x")
    assert "wrokdir" in err and "Did you mean: workdir" in err


@pytest.mark.parametrize(("name", "flag"), [(n, f) for n, v in VERBS.items() for f in v.required[:1]])
def test_missing_flag_is_named(capsys, name, flag):
    assert f"{name} needs --{flag}=" in wrong(capsys, name)


def test_train_needs_a_workdir_beside_its_config(capsys, config_file):
    assert "train needs --workdir=DIR" in wrong(capsys, "train", f"--config={config_file}")
    assert "train needs --workdir=DIR" in wrong(capsys, "train", f"--config={config_file}", "--workdir=")


def test_a_bucket_is_no_workdir(capsys, config_file):
    said = wrong(capsys, "train", f"--config={config_file}", "--workdir=gs://bucket/run")
    assert "--workdir=gs://bucket/run: wanted a folder" in said and "NFS" in said


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--config.trainig.steps=5", "--config has no field 'trainig.steps'; the nearest is --config.training.steps"),
        ("--config.model.trunk=5", "no field 'model.trunk'; the nearest is --config.model.trunk."),
        (
            "--config.training.steps=five",
            "--config.training.steps=five: the field takes a value of type int, such as 1000",
        ),
        ("--config.optimizer.eps=tiny", "--config.optimizer.eps=tiny: the field takes a value of type float"),
        ("--config.model.pooling.last_state=5", "the field takes a value of type bool, such as True"),
        ("--config.data.sources=text: x", "the field takes a value of type tuple"),
        ("--config.data.sources=text:x", "must hold (SPEC, weight) pairs"),
        ("--config.patching.kind=fix", "patching.kind = 'fix' must be one of byte, fixed"),
        ("--config.training.batch_rows=0", "training.batch_rows = 0 must lie between 1 and 1048576"),
        ("--config.seed", "--config.seed"),
        ("stray", "'stray' is not a flag"),
    ],
)
def test_wrong_override_is_named_with_the_right_one(capsys, config_file, argument, words):
    assert words in wrong(capsys, "audit", f"--config={config_file}", argument)


def test_override_before_the_config_is_explained(capsys, config_file):
    assert "give --config=FILE before it" in wrong(capsys, "audit", "--config.seed=1", f"--config={config_file}")


@pytest.mark.parametrize("name", CONFIG_VERBS)
def test_bad_config_file_is_wrong_usage(capsys, tmp_path, name):
    assert "nowhere.py does not exist" in wrong(capsys, name, f"--config={tmp_path}/nowhere.py")
    broken = tmp_path / "broken.py"
    broken.write_text("def get_config(:\n")
    assert f"{broken}:1: invalid syntax" in wrong(capsys, name, f"--config={broken}")


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["generate", "--max_bytes=-1", "--prompt=x"], "--max_bytes=-1"),
        (["generate", "--max_bytes=many", "--prompt=x"], "--max_bytes=many"),
        (["generate", "--temperature=-0.5", "--prompt=x"], "--temperature=-0.5"),
        (["generate", "--temperature=nan", "--prompt=x"], "--temperature=nan"),
        (["generate"], "--prompt=TEXT and --prompt_file=FILE"),
        (["generate", "--prompt=x", "--prompt_file=y"], "--prompt=TEXT and --prompt_file=FILE"),
        (["eval", "--split=validate"], "--split=validate"),
        (["eval", "--step=-1"], "--step=-1"),
        (["eval", "--max_bytes=0"], "--max_bytes=0"),
        (["eval", "--override", "trigger.treshold=1"], "nearest is 'trigger.threshold'"),
        (["eval", "--output=no/such/folder/x.json"], "--output=no/such/folder/x.json"),
        (["inspect", "--text=x", "--html=no/such/folder/x.html"], "--html=no/such/folder/x.html"),
        (["calibrate"], "give one of --target_bytes_per_patch=6 and --target_scratchpads_per_byte=0.2"),
        (["calibrate", "--target_bytes_per_patch=6", "--target_scratchpads_per_byte=0.2"], "give one of"),
        (["calibrate", "--target_bytes_per_patch=0.5"], "--target_bytes_per_patch=0.5: wanted a number of at least 1"),
        (["calibrate", "--target_bytes_per_patch=nan"], "--target_bytes_per_patch=nan"),
        (["calibrate", "--target_scratchpads_per_byte=0"], "--target_scratchpads_per_byte=0.0: wanted a number above 0"),
        (["calibrate", "--target_scratchpads_per_byte=1.5"], "--target_scratchpads_per_byte=1.5"),
        (["calibrate", "--target_bytes_per_patch=6", "--sample_bytes=0"], "--sample_bytes=0"),
        (["calibrate", "--target_bytes_per_patch=6", "--override", "patching.knd=x"], "nearest is 'patching.kind'"),
        (["checkpoint"], "say what to do: scratchpatch checkpoint list, verify, prune or export"),
        (["checkpoint", "purge"], "purge"),
        (["checkpoint", "prune"], "checkpoint prune needs --keep_last=N"),
        (["checkpoint", "prune", "--keep_last=0"], "--keep_last=0"),
        (["checkpoint", "prune", "--keep_last=1", "--step=5"], "--step goes with checkpoint verify or export alone"),
        (["checkpoint", "list", "--keep_last=1"], "--keep_last goes with checkpoint prune alone"),
        (["checkpoint", "verify", "--dry_run"], "--dry_run goes with checkpoint prune alone"),
        (["checkpoint", "verify", "--step=-1"], "--step=-1"),
        (["checkpoint", "export"], "checkpoint export needs --out=DIR"),
        (["checkpoint", "export", "--out=x", "--layout=flat"], "--layout=flat"),
        (["checkpoint", "export", "--out=x", "--json"], "--json goes with checkpoint list or verify or prune alone"),
    ],
)
def test_wrong_flag_value_is_named(capsys, workdir, argv, words):
    assert words in wrong(capsys, argv[0], f"--workdir={workdir}", *argv[1:])


def test_bench_refuses_an_unknown_measurement(capsys):
    assert "speed" in wrong(capsys, "bench", "speed")


# the functions behind the verbs


def test_train_gets_the_config_with_its_overrides(stand_in, config_file):
    calls = stand_in("scratchpatch.training.loop", train=lambda c, workdir, began, notices: None)
    sources = "(('text:books/*.txt',1.0),)"
    argv = [
        "train",
        f"--config={config_file}",
        "--workdir=runs/x",
        "--config.training.steps=5",
        f"--config.data.sources={sources}",
    ]
    assert cli.main([*argv, "--noconfig.model.pooling.last_state", "--config.optimizer.eps", "1e-6"]) == 0
    ((c, workdir, began, _), _) = calls[0]
    assert workdir == "runs/x" and time.monotonic() - 60 < began <= time.monotonic()
    assert config.difference(config.default(), c, free=True) == [
        "data.sources: [['stdlib:code', 1.0], ['stdlib:prose', 1.0]] -> [['text:books/*.txt', 1.0]]",
        "model.pooling.last_state: True -> False",
        "training.steps: 1000 -> 5",
        "optimizer.eps: 1e-08 -> 1e-06",
    ]
    assert c.is_locked


def test_eval_prints_one_json_object_and_nothing_else(capsys, stand_in, workdir, tmp_path):
    def evaluate(*_, tell, **__):
        print("chatter")
        absl_logging.warning("a warning")
        tell({"bpb": 2.5, "bpb_by_offset": [1.0, float("nan")]})

    calls = stand_in("scratchpatch.evaluation.evaluate", evaluate=evaluate)
    output = tmp_path / "out.json"
    argv = [
        "eval",
        f"--workdir={workdir}",
        "--json",
        "--override",
        "trigger.threshold=1",
        "--override=trigger.kind=none",
    ]
    assert cli.main([*argv, f"--output={output}", "--split=test"]) == 0
    out, err = capsys.readouterr()
    assert out == '{"bpb": 2.5, "bpb_by_offset": [1.0, null]}\n'
    assert output.read_text() == out
    assert "chatter" in err and "a warning" in err
    overrides = {"trigger.threshold": 1.0, "trigger.kind": "none"}
    asked = {"source": None, "split": "test", "overrides": overrides, "step": None, "max_bytes": None, "devices": 1}
    ((arguments, named),) = calls
    del named["tell"]
    assert arguments == (workdir,) and named == asked | {"compressor_bytes": 1 << 24}


def test_eval_prints_a_table_without_json(capsys, stand_in, workdir):
    stand_in("scratchpatch.evaluation.evaluate", evaluate=lambda *_, tell, **__: tell({"bpb": 2.5, "split": "validation"}))
    assert cli.main(["eval", f"--workdir={workdir}"]) == 0
    assert capsys.readouterr().out == "bpb    2.5\nsplit  validation\n"


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_audit_exits_with_its_verdict(capsys, stand_in, config_file, ok, code):
    report = types.SimpleNamespace(ok=ok, as_dict=lambda: {"ok": ok}, text=lambda: "the findings")
    stand_in("scratchpatch.evaluation.audit", audit_config=lambda c: report)
    assert cli.main(["audit", f"--config={config_file}", "--json"]) == code
    out, err = capsys.readouterr()
    assert json.loads(out) == {"ok": ok}
    assert ("audit failed" in err) != ok
    assert cli.main(["audit", f"--config={config_file}"]) == code
    assert capsys.readouterr().out == "the findings\n"


def test_inspect_prints_what_it_is_given(capsys, stand_in, workdir, config_file, tmp_path):
    calls = stand_in("scratchpatch.report.inspect", inspect=lambda *_, tell, **__: tell("shaded"))
    argv = ["inspect", f"--workdir={workdir}", f"--text={config_file}", f"--html={tmp_path}/x.html"]
    assert cli.main([*argv, "--override=trigger.kind=every"]) == 0
    assert capsys.readouterr().out == "shaded\n"
    ((arguments, named),) = calls
    del named["tell"]
    assert arguments == (workdir, config_file) and named == {"html": f"{tmp_path}/x.html", "overrides": {"trigger.kind": "every"}}


def test_generate_keeps_every_byte(capfdbinary, stand_in, workdir, tmp_path):
    calls = stand_in("scratchpatch.inference.generate", generate_text=lambda *_, **__: b"\xff\x00\n")
    prompt = os.fsdecode(b"caf\xe9 \xff")
    assert cli.main(["generate", f"--workdir={workdir}", f"--prompt={prompt}", "--max_bytes=3"]) == 0
    assert capfdbinary.readouterr().out == b"\xff\x00\n"
    raw = tmp_path / "prompt"
    raw.write_bytes(bytes(range(256)))
    argv = [
        "generate",
        f"--workdir={workdir}",
        f"--prompt_file={raw}",
        "--max_bytes=3",
        "--temperature=0.5",
        "--seed=4",
    ]
    assert cli.main(argv) == 0
    assert calls == [
        ((workdir, b"caf\xe9 \xff", 3), {"temperature": 0.0, "seed": 0}),
        ((workdir, bytes(range(256)), 3), {"temperature": 0.5, "seed": 4}),
    ]


def test_account_prints_its_table_or_json(capsys, stand_in, config_file):
    stand_in("scratchpatch.accounting.account", account=lambda c: {"seed": c.seed}, text=lambda d: f"seed {d['seed']}")
    argv = ["account", f"--config={config_file}", "--config.seed=3"]
    assert cli.main(argv) == 0
    assert cli.main([*argv, "--json"]) == 0
    assert capsys.readouterr().out == 'seed 3\n{"seed": 3}\n'


def test_bench_takes_what_to_measure_by_position(capsys, stand_in, config_file):
    calls = stand_in("scratchpatch.bench", run=lambda what, c: {"what": what}, text=lambda d: d["what"])
    assert cli.main(["bench"]) == 0
    assert cli.main(["bench", "data", "--json", f"--config={config_file}"]) == 0
    assert capsys.readouterr().out == 'all\n{"what": "data"}\n'
    assert calls[0][0] == ("all", None)
    assert config.difference(calls[2][0][1], config.default()) == []


def test_report_prints_its_path(capsys, stand_in, workdir):
    calls = stand_in("scratchpatch.report.page", write_report=lambda *_, **__: "x/report.html")
    assert cli.main(["report", f"--workdir={workdir}", f"--baseline={workdir}"]) == 0
    assert capsys.readouterr().out == "x/report.html\n"
    assert calls == [((workdir,), {"baseline": workdir})]


# failure


@pytest.mark.parametrize(
    "argv",
    [["eval"], ["calibrate", "--target_bytes_per_patch=6"], ["inspect", "--text=x"], ["generate", "--prompt=x"], ["report"], ["checkpoint", "list"]],
)
def test_missing_workdir_fails_with_one_line(capsys, tmp_path, argv):
    assert cli.main([*argv, f"--workdir={tmp_path}/none"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"scratchpatch: --workdir={tmp_path}/none: no such folder: scratchpatch train makes one\n"


def test_missing_text_fails_with_one_line(capsys, workdir):
    assert cli.main(["inspect", f"--workdir={workdir}", "--text=no.txt"]) == 1
    assert capsys.readouterr().err == "scratchpatch: --text=no.txt: no such file\n"


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
        (MemoryError(), 1, "scratchpatch: this machine's memory does not suffice: a smaller batch, window or model needs less\n"),
        (
            MemoryError("Unable to allocate 8 TiB"),
            1,
            "scratchpatch: this machine's memory does not suffice (Unable to allocate 8 TiB): a smaller batch, window or model needs less\n",
        ),
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
    assert "data.sources takes a value of type tuple" in wrong(capsys, "eval", "--workdir=x", f"--override=data.sources={deep}")


class Stream(io.TextIOWrapper):
    """Standard output in some encoding, a terminal or none; `said()` is what has come out."""

    def __init__(self, encoding="utf-8", terminal=False):
        self._out = io.BytesIO()
        super().__init__(self._out, encoding=encoding, errors="strict")
        self.isatty = lambda: terminal

    def said(self) -> bytes:
        self.flush()
        return self._out.getvalue()


HOSTILE = "a\x1b[31m\x07\u202e\udcff é\n"


@pytest.mark.parametrize(
    ("stream", "wanted"),
    [
        (Stream(), "a\x1b[31m\x07\u202e".encode() + b"\xff \xc3\xa9\n"),
        (Stream("ascii"), b"a\x1b[31m\x07\\u202e\xff \\xe9\n"),
        (Stream(terminal=True), b"a\\x1b[31m\\x07\\u202e\\xff \xc3\xa9\n"),
        (Stream("ascii", terminal=True), b"a\\x1b[31m\\x07\\u202e\\xff \\xe9\n"),
    ],
    ids=["pipe", "ascii pipe", "terminal", "ascii terminal"],
)
def test_a_result_is_shown_on_a_terminal_and_goes_into_a_pipe_as_it_is(monkeypatch, stand_in, workdir, stream, wanted):
    stand_in("scratchpatch.report.page", write_report=lambda *_, **__: HOSTILE.rstrip("\n"))
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["report", f"--workdir={workdir}"]) == 0
    assert stream.said() == wanted and stream.errors == "strict"


@pytest.mark.parametrize("name", ["", *VERBS])
def test_help_on_an_ascii_terminal(monkeypatch, name):
    stream = Stream("ascii", terminal=True)
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main([*name.split(), "--help"]) == 0
    assert b"exit codes:" in stream.said()


GENERATED = "sí\t".encode() + b"\x1b]0;owned\x07\n\xff\xe2\x80\xae"


@pytest.mark.parametrize(
    ("stream", "flags", "wanted"),
    [
        (Stream(), [], GENERATED),
        (Stream(terminal=True), ["--raw"], GENERATED),
        (Stream(terminal=True), [], "sí⇥‹1b›]0;owned‹07›⏎\n‹ff›‹e2›‹80›‹ae›\n".encode()),
        (Stream("ascii"), [], GENERATED),
        (Stream("ascii", terminal=True), [], rb"s\xed\u21e5\u20391b\u203a]0;owned\u203907\u203a\u23ce" + b"\n" + rb"\u2039ff\u203a\u2039e2\u203a\u203980\u203a\u2039ae\u203a" + b"\n"),
    ],
    ids=["pipe", "raw", "terminal", "ascii pipe", "ascii terminal"],
)
def test_generated_bytes_do_not_steer_a_terminal(monkeypatch, stand_in, workdir, stream, flags, wanted):
    stand_in("scratchpatch.inference.generate", generate_text=lambda *_, **__: GENERATED)
    monkeypatch.setattr(sys, "stdout", stream)
    assert cli.main(["generate", f"--workdir={workdir}", "--prompt=x", *flags]) == 0
    assert stream.said() == wanted


def test_standard_output_that_is_closed_takes_what_it_is_given(capsys, monkeypatch, stand_in, workdir):
    stand_in("scratchpatch.inference.generate", generate_text=lambda *_, **__: GENERATED)
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(["generate", f"--workdir={workdir}", "--prompt=x"]) == 0
    assert cli.main(["--help"]) == 0 and sys.stdout is None
    assert capsys.readouterr().err == ""


def test_standard_output_that_is_full_is_one_line(capsys, monkeypatch, stand_in, config_file):
    class Full(Stream):
        def flush(self):
            raise OSError(28, "No space left on device")

    stand_in("scratchpatch.accounting.account", account=lambda c: {}, text=lambda d: "a table")
    monkeypatch.setattr(sys, "stdout", Full())
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    assert cli.main(["account", f"--config={config_file}"]) == 1
    assert capsys.readouterr().err == "scratchpatch: standard output: No space left on device\n"


# where a user's files are

PATHS = {"workdir", "out", "output", "html", "text", "baseline", "folder", "prompt_file"}


def test_a_tilde_means_home_in_every_flag_that_takes_a_path(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    seen = set()
    for name, verb in VERBS.items():
        values = absl_flags.FlagValues()
        verb.define(values)
        for flag in PATHS & set(values):
            values[flag].parse("~/a b")
            assert values[flag].value == "/home/me/a b", (name, flag)
            values[flag].parse("gs://bucket/~")
            assert values[flag].value == "gs://bucket/~"
            seen.add(flag)
    assert seen == PATHS


def test_a_tilde_means_home_in_config(capsys, monkeypatch, stand_in, tmp_path, config_file):
    monkeypatch.setenv("HOME", str(tmp_path))
    calls = stand_in("scratchpatch.accounting.account", account=lambda c: {"seed": c.seed}, text=lambda d: "")
    assert cli.main(["account", "--config=~/experiment.py", "--config.seed=3"]) == 0
    assert len(calls) == 2 and capsys.readouterr().out == "\n"
    assert f"config file {tmp_path}/no.py does not exist" in wrong(capsys, "account", "--config=~/no.py")


def test_a_tilde_without_a_home_is_wrong_usage(capsys, monkeypatch):
    monkeypatch.setattr(places, "home", lambda: None)
    for argv in (["eval", "--workdir=~/run"], ["account", "--config=~/x.py"]):
        assert "this user has no home folder (HOME is not set): write the whole path" in wrong(capsys, *argv)


def test_json_of_a_failure_is_empty(capsys, stand_in, workdir):
    stand_in("scratchpatch.evaluation.evaluate", evaluate=raises(UserError("no checkpoint")))
    assert cli.main(["eval", f"--workdir={workdir}", "--json"]) == 1
    assert capsys.readouterr() == ("", "scratchpatch: no checkpoint\n")


def test_console_in_its_own_process():
    def run(*argv, stdout=subprocess.PIPE):
        return subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "scratchpatch", *argv],
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
        )

    helped = run("train", "--help")
    assert helped.returncode == 0 and "patching.patch_bytes = 16" in helped.stdout
    # Help answers before the heavy imports.
    assert "| jax" not in helped.stderr and "| scratchpatch.cli" in helped.stderr.replace("|     ", "| ").replace(
        "|   ", "| "
    )
    refused = run("eval", "--workdir=no/such/folder")
    assert refused.returncode == 1
    assert (
        refused.stderr.splitlines()[-1]
        == "scratchpatch: --workdir=no/such/folder: no such folder: scratchpatch train makes one"
    )
