"""`scratchpatch generate` with a real, tiny model of random weights: prompts of any bytes, and files of prompts."""

import base64
import json
import signal

import jax
import jax.numpy as jnp
import pytest

import scratchpatch
from scratchpatch import cli
from scratchpatch.checkpoints import workdir as workdir_lib
from scratchpatch.checkpoints.writer import Checkpoints
from tests import child
from tests.inference.models import language_model, some_bytes

LINES = [
    {"prompt": "the ", "id": "a"},
    {"prompt": "", "max_bytes": 0},
    {"prompt": "the ", "max_bytes": 80},
    {"prompt_base64": "/8M=", "id": 4},
    {"prompt": "sí", "seed": 3, "threshold": 0.0},
    {"prompt": "sí", "seed": 3, "threshold": 1e30},
    {"prompt": "x" * 100, "temperature": 0},
]
SAMPLED = ("--max_bytes=9", "--temperature=1.0", "--seed=5", "--rows=3")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with the steps 1 and 2."""
    lm, folder = language_model(), tmp_path_factory.mktemp("generate") / "run"
    workdir_lib.guard_workdir(folder, lm.config)
    checkpoints = Checkpoints(folder / "checkpoints", lm.config, keep_last=2)
    for step in (1, 2):
        params = jax.tree.map(lambda x, step=step: x * step, jax.tree.map(jnp.asarray, lm.weights["params"]))
        checkpoints.save(step, {"params": params, "thresholds": lm.weights["thresholds"], "step": jnp.int32(step)})
    checkpoints.close()
    return folder


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return path


def many(run, prompts, *flags):
    return ["generate", f"--workdir={run}", f"--prompts={prompts}", f"--out={prompts.parent}/out.jsonl", *flags]


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def data(row):
    return base64.b64decode(row["text_base64"]) if "text_base64" in row else row["text"].encode()


@pytest.fixture(scope="module")
def wanted(run, tmp_path_factory):
    """What the prompts give, never stopped."""
    folder = tmp_path_factory.mktemp("wanted")
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    assert cli.main(many(run, path, *SAMPLED)) == 0
    assert sorted(p.name for p in folder.iterdir()) == ["out.jsonl", "out.jsonl.about.json", "prompts.jsonl"]
    return read(folder / "out.jsonl")


def test_a_file_of_prompts_is_continued_in_order(run, wanted):
    assert [row.get("id") for row in wanted] == ["a", None, None, 4, None, None, None]
    assert [row["seed"] for row in wanted] == [5, 6, 7, 8, 3, 3, 11]
    assert [row["bytes"] for row in wanted][:3] == [9, 0, 80] and wanted[1]["text"] == ""
    lm = scratchpatch.load(run)
    assert data(wanted[0]) == lm.generate(b"the ", 9, 5, temperature=1.0)
    assert data(wanted[2]) == lm.generate(b"the ", 80, 7, temperature=1.0)
    assert data(wanted[3]) == lm.generate(b"\xff\xc3", 9, 8, temperature=1.0)
    # Every byte is a call of the trunk, or commits alone are.
    assert wanted[4]["commits"] + wanted[4]["scratchpads"] == wanted[4]["bytes"]
    assert wanted[5]["scratchpads"] == 0 < wanted[5]["commits"]


def test_totals_are_said_and_a_finished_file_is_left_as_it_is(run, prompts, wanted, capsys):
    assert cli.main(many(run, prompts, *SAMPLED, "--share=1.0", "--json")) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rows"] == said["written"] == 7
    assert said["bytes"] == sum(row["bytes"] for row in wanted) and said["bytes_per_second"] > 0
    assert 0 < said["trunk_calls_per_byte"] <= 1 <= said["rows_per_trunk_call"] <= 3
    out = prompts.parent / "out.jsonl"
    assert read(out) == wanted
    before = out.stat()
    assert cli.main(many(run, prompts, *SAMPLED)) == 0
    assert capsys.readouterr().out == f"{out} is finished: 7 rows\n" and out.stat() == before


def test_a_kill_loses_no_row_that_has_ended(run, prompts, wanted, tmp_path, capsys):
    argv = many(run, prompts, *SAMPLED)
    assert child.run(argv, tmp_path / "log", ("rows", 1)) == -signal.SIGKILL
    out, partial = tmp_path / "out.jsonl", tmp_path / "out.jsonl.partial"
    ended = [line["number"] for line in read(partial)[1:]]
    assert 0 < len(ended) < 7 and not out.exists()
    # A kill may have torn the last line.
    partial.write_bytes(partial.read_bytes() + b'{"number": 7, "row": {"te')

    def refused(words, *flags):
        before = partial.read_bytes()
        assert cli.main([*argv, *flags]) == 1
        said = capsys.readouterr().err.splitlines()[-1]
        assert said.startswith(f"scratchpatch: {partial} was made with {words}"), said
        assert said.endswith(": name another --out, or remove it")
        assert partial.read_bytes() == before

    refused("temperature = 1.0, not 0.5", "--temperature=0.5")
    refused("step = 2, not 1, weights = ", "--step=1")
    refused("threshold = None, not 1.0", "--threshold=1.0")
    text = prompts.read_text()
    prompts.write_text(text + '{"prompt": "more"}\n')
    refused("SHA-256 of the prompts = ")
    prompts.write_text(text)

    assert cli.main([*argv, "--rows=2"]) == 0
    said = capsys.readouterr().out
    assert said.startswith(f"{7 - len(ended)} rows ({len(ended)} were there), ") and said.count("\n") == 1
    assert " bytes/s; " in said and said.endswith(" rows each\n")
    assert read(out) == wanted and not partial.exists()
    assert cli.main([*argv, "--temperature=0.5"]) == 1
    assert f"{out} was made with temperature = 1.0, not 0.5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "is empty: wanted a JSON object on each line"),
        (b'{"prompt": "a"}\n\n', ", line 2: it is blank"),
        (b'{"prompt": "a"}\n{"prompt": "\xff"}\n', ", line 2: it is no UTF-8"),
        (b'{"prompt": "a", "stop": 3}\n', ", line 1: stop: Expected"),
        (b'{"text": "a"}\n', ", line 1: no field 'text'; the nearest is"),
    ],
)
def test_a_bad_file_of_prompts_is_refused_before_anything_is_written(run, prompts, capsys, text, words):
    prompts.write_bytes(text)
    assert cli.main(many(run, prompts)) == 1
    out, err = capsys.readouterr()
    assert out == "" and err.startswith(f"scratchpatch: {prompts}") and words in err and err.count("\n") == 1
    assert list(prompts.parent.iterdir()) == [prompts]


def test_files_that_are_not_there_or_in_the_way_are_named(run, prompts, capsys):
    assert cli.main(["generate", f"--workdir={run}", "--prompts=no.jsonl", f"--out={prompts}"]) == 1
    assert capsys.readouterr().err == "scratchpatch: --prompts=no.jsonl: no such file\n"
    (prompts.parent / "out.jsonl").write_text("mine")
    assert cli.main(many(run, prompts)) == 1
    assert "out.jsonl exists, and is no file of results that generate has finished" in capsys.readouterr().err


@pytest.mark.parametrize(
    "prompt",
    [b"", b"\xff\xfe\xc3", some_bytes(77), b"caf\xc3"],
    ids=["empty", "no UTF-8", "longer than the window", "inside a character"],
)
def test_every_prompt_is_continued(run, capfdbinary, tmp_path, prompt):
    (tmp_path / "prompt").write_bytes(prompt)
    argv = ["generate", f"--workdir={run}", f"--prompt_file={tmp_path}/prompt", "--max_bytes=12", "--temperature=1"]
    assert cli.main(argv) == 0
    made = capfdbinary.readouterr().out
    lm = scratchpatch.load(run)
    assert len(made) == 12 and made == lm.generate(prompt, 12, temperature=1.0)
    assert cli.main([*argv, "--valid_utf8"]) == 0
    made = capfdbinary.readouterr().out
    assert made == lm.generate(prompt, 12, temperature=1.0, valid_utf8=True)
    if prompt == b"caf\xc3":
        (prompt + made).decode()
    assert cli.main([*argv, "--max_bytes=0"]) == 0
    assert capfdbinary.readouterr().out == b""


def test_flags_reach_the_model(run, capfdbinary):
    argv = ["generate", f"--workdir={run}", "--prompt=ab", "--max_bytes=12"]

    def out(*flags):
        assert cli.main([*argv, *flags]) == 0
        return capfdbinary.readouterr().out

    first = scratchpatch.load(run, step=1)
    greedy = first.generate(b"ab", 12)
    assert out("--step=1") == greedy
    stop = greedy[4:6].decode("utf-8", "surrogateescape")
    assert out("--step=1", f"--stop={stop}") == greedy[: greedy.index(greedy[4:6])]
    row = json.loads(out("--step=1", "--json", "--logprobs=1"))
    assert bytes(entry["byte"] for entry in row["logprobs"]) == greedy and row["finish"] == "length"
    assert [entry["likeliest"][0][0] for entry in row["logprobs"]] == list(greedy)
    assert json.loads(out("--json", "--threshold=inf"))["scratchpads"] == 0
