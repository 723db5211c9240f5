"""What each verb calls, and what it answers; with stand-ins for the functions behind the verbs."""

import dataclasses
import json
import math
import os
import time
import types
from pathlib import Path

import pytest
from absl import logging

from scratchpatch import cli, config
from scratchpatch.inference.options import Options
from scratchpatch.serving.request import Limits
from scratchpatch.vocabulary import BYTES, Vocabulary


def test_train_gets_the_config_with_its_overrides(stand_in, config_file):
    calls = stand_in("scratchpatch.training.loop", train=lambda c, workdir, began, notices: None)
    sources = "(('text:books/*.txt',1.0),)"
    argv = ["train", f"--config={config_file}", "--workdir=runs/x", "--config.training.steps=5"]
    argv += [f"--config.data.sources={sources}", "--noconfig.model.pooling.last_state"]
    assert cli.main([*argv, "--config.optimizer.eps", "1e-6"]) == 0
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
    def evaluate(*_, **__):
        print("chatter")
        logging.warning("a warning")
        return types.SimpleNamespace(result={"bpb": 2.5, "bpb_by_offset": [1.0, float("nan")]}, for_the_page=False)

    stand_in("scratchpatch.report.evaluation", write_evaluation=lambda *_, **__: None)
    calls = stand_in("scratchpatch.evaluation.evaluate", evaluate=evaluate)
    output = tmp_path / "out.json"
    argv = ["eval", f"--workdir={workdir}", "--json", "--override", "trigger.threshold=1"]
    assert cli.main([*argv, "--override=trigger.kind=none", f"--output={output}", "--split=test"]) == 0
    out, err = capsys.readouterr()
    assert out == '{"bpb": 2.5, "bpb_by_offset": [1.0, null]}\n'
    assert output.read_text() == out
    assert "chatter" in err and "a warning" in err
    overrides = {"trigger.threshold": 1.0, "trigger.kind": "none"}
    asked = {"source": None, "split": "test", "overrides": overrides, "step": None, "max_bytes": None}
    ((arguments, named),) = calls
    assert arguments == (workdir,) and named == asked | {"compressor_bytes": 1 << 24, "devices": None, "mesh": None}


def test_eval_prints_a_table_without_json(capsys, stand_in, workdir):
    evaluation = types.SimpleNamespace(result={"bpb": 2.5, "split": "validation"}, for_the_page=False)
    stand_in("scratchpatch.report.evaluation", write_evaluation=lambda *_, **__: None)
    stand_in("scratchpatch.evaluation.evaluate", evaluate=lambda *_, **__: evaluation)
    assert cli.main(["eval", f"--workdir={workdir}"]) == 0
    assert capsys.readouterr().out == "bpb    2.5\nsplit  validation\n"


@pytest.mark.parametrize(("flags", "page"), [([], True), (["--results=elsewhere"], False)])
def test_tasks_are_measured_shown_and_told_to_the_page(capsys, stand_in, workdir, monkeypatch, flags, page):
    (Path(workdir) / "checkpoints").mkdir()
    stand_in("scratchpatch.inference.loading", load=lambda *_, **__: types.SimpleNamespace(step=3))
    found = [{"task": "utf8", "results": {"valid_outputs": 0.5}, "protocol": {}, "seconds": 1.0}]
    written = stand_in("scratchpatch.report.evaluation", write_tasks=lambda *_: None)
    monkeypatch.setattr("scratchpatch.tasks.evaluate.evaluate", lambda tasks, setting: found)
    assert cli.main(["eval", f"--workdir={workdir}", "--task=utf8", *flags]) == 0
    assert capsys.readouterr().out == "utf8\n  valid_outputs  0.5\n"
    folder = Path(workdir) / "evaluations" if page else Path("elsewhere")
    assert written == [((folder, found, workdir if page else None), {})]


def test_an_exported_folder_has_no_page_of_tasks(stand_in, workdir, monkeypatch):
    stand_in("scratchpatch.inference.loading", load=lambda *_, **__: types.SimpleNamespace(step=3))
    written = stand_in("scratchpatch.report.evaluation", write_tasks=lambda *_: None)
    monkeypatch.setattr("scratchpatch.tasks.evaluate.evaluate", lambda tasks, setting: [])
    assert cli.main(["eval", f"--workdir={workdir}", "--task=utf8"]) == 0
    assert written[0][0][2] is None


@pytest.mark.parametrize(("ok", "code"), [(True, 0), (False, 1)])
def test_audit_exits_with_its_verdict(capsys, stand_in, config_file, ok, code):
    report = types.SimpleNamespace(ok=ok, as_dict=lambda: {"ok": ok}, text=lambda: "the findings")
    stand_in("scratchpatch.evaluation.audit", audit_config=lambda c, devices, mesh: report)
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
    assert arguments == (workdir, config_file)
    assert named == {"html": f"{tmp_path}/x.html", "overrides": {"trigger.kind": "every"}}


def test_generate_keeps_every_byte(capfdbinary, generating, workdir, tmp_path):
    calls = generating(b"\xff\x00\n")
    prompt = os.fsdecode(b"caf\xe9 \xff")
    assert cli.main(["generate", f"--workdir={workdir}", f"--prompt={prompt}", "--max_bytes=3"]) == 0
    assert capfdbinary.readouterr().out == b"\xff\x00\n"
    raw = tmp_path / "prompt"
    raw.write_bytes(bytes(range(256)))
    argv = ["generate", f"--workdir={workdir}", f"--prompt_file={raw}", "--max_bytes=3"]
    sampled = ["--temperature=0.5", "--top_k=9", "--top_p=0.75", "--min_p=0.25", "--repetition_penalty=1.5", "--seed=4"]
    dial = ["--threshold=inf", "--stop=\n\n", f"--stop={os.fsdecode(bytes([255]))}", "--step=7"]
    assert cli.main([*argv, *sampled, *dial]) == 0
    defaults = dataclasses.asdict(Options(max_bytes=3))
    changed = {"temperature": 0.5, "top_k": 9, "top_p": 0.75, "min_p": 0.25, "repetition_penalty": 1.5, "seed": 4}
    changed |= {"scratchpad_threshold": math.inf, "stop": (b"\n\n", b"\xff")}
    assert calls == [
        (workdir, None, b"caf\xe9 \xff", defaults),
        (workdir, 7, bytes(range(256)), defaults | changed),
    ]


def test_generate_says_what_it_cost(capfdbinary, generating, workdir):
    generating(b"x" * 8)
    assert cli.main(["generate", f"--workdir={workdir}", "--prompt=x", "--stats"]) == 0
    out, err = capfdbinary.readouterr()
    assert out == b"x" * 8 and err.count(b"\n") == 1
    assert err.startswith(b"8 bytes in ")
    assert err.endswith(b"; trunk calls per byte: 0.500 (0.250 commits, 0.250 scratchpads)\n")


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


@dataclasses.dataclass(frozen=True)
class Overridden:
    """A model whose config fields are changed."""

    changed: dict | None = None
    score: str = "other scores"
    vocabulary: Vocabulary = BYTES


def test_serve_puts_an_engine_behind_the_address_that_is_named(capsys, stand_in, workdir):
    model = types.SimpleNamespace(score="its scores", override=Overridden, vocabulary=BYTES)
    loads = stand_in("scratchpatch.inference.loading", load=lambda workdir, step: model)
    engines = stand_in("scratchpatch.inference.engine", Engine=lambda model, rows: f"an engine of {rows} rows")
    warm = stand_in("scratchpatch.serving.driver", warm_up=lambda engine: None)
    apps = stand_in("scratchpatch.serving.app", create=lambda *arguments: "the app")
    server = stand_in("scratchpatch.serving.server", bind=lambda *_: "a socket", run=lambda *rest: rest[3]("here"))
    assert cli.main(["serve", f"--workdir={workdir}"]) == 0
    argv = ["serve", f"--workdir={workdir}", "--host=0.0.0.0", "--port=0", "--rows=2", "--queue=3", "--step=7"]
    argv += ["--name=mine", "--drain_seconds=1.5", "--override=trigger.threshold=1"]
    assert cli.main(argv) == 0
    assert capsys.readouterr().out == "here\nhere\n"
    assert [arguments for arguments, _ in loads] == [(workdir, None), (workdir, 7)]
    assert engines == [((model,), {"rows": 64}), ((Overridden({"trigger.threshold": 1.0}),), {"rows": 2})]
    assert [engine for (engine,), _ in warm] == ["an engine of 64 rows", "an engine of 2 rows"]
    usual, changed = (arguments for arguments, _ in apps)
    assert usual == ("an engine of 64 rows", "run", "its scores", Limits(queue=256))
    assert changed == ("an engine of 2 rows", "mine", "other scores", Limits(queue=3))
    first, ran, second, again = (arguments for arguments, _ in server)
    assert first == ("127.0.0.1", 8000) and ran[:3] == ("the app", "a socket", 30.0)
    assert second == ("0.0.0.0", 0) and again[2] == 1.5
