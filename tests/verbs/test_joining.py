"""Verbs that several processes do as one, over loopback, and on eight devices of one: the answers of one device."""

import json
import signal
import socket
import time

import pytest

from scratchpatch import cli
from scratchpatch.checkpoints.writer import Checkpoints
from scratchpatch.errors import UserError
from scratchpatch.evaluation.audit import audit_config
from scratchpatch.evaluation.calibrate import calibrate
from scratchpatch.evaluation.evaluate import evaluate
from scratchpatch.verbs import joining
from tests import child, runs, tiny

PROCESSES, DEVICES = 2, 2
# Compiled by every process: no layers but the trunk's, and few programs.
FIELDS = runs.SHALLOW | {
    "data.window": 32,
    "patching.kind": "entropy",
    "patching.threshold": 4.5,
    "trigger.kind": "none",
}
PROMPTS = [{"prompt": "the "}, {"prompt": "", "max_bytes": 3}, {"prompt": "a cat", "max_bytes": 36}]
QUESTIONS = [
    {"query": f"Question: who sat on the {place}?", "choices": ["the cat", "a dog", "no one"], "gold": n % 3}
    for n, place in enumerate(("mat", "log", "sea", "hat", "car", "box", "bed"))
]

# Several command lines of one process each, as `-m scratchpatch`, one after the other in the same process.
SEVERAL = """
import functools, itertools, json, sys
from scratchpatch import cli
from scratchpatch.distributed import processes

lines, failing = json.loads(sys.argv[1]), sys.argv[2]
meet, count = processes.meet, itertools.count()
processes.start = functools.lru_cache(processes.start)
processes.meet = lambda where: meet(f"{where} {next(count)}")
processes._GRACE_SECONDS = 0.5
if failing:
    from scratchpatch.inference.language_model import LanguageModel

    def fail(*_):
        raise OSError(5, "it broke")

    LanguageModel.positions = fail
for line in lines:
    print("code", cli.main([*line, sys.argv[3]]), flush=True)
"""


def start(folder, name: str, lines, failing=None, processes=PROCESSES, devices=DEVICES) -> list[child.Started]:
    """Processes that run the same command lines together; `failing`: the process that breaks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for i in range(processes):
        argv = [json.dumps(lines), "yes" if i == failing else "", f"--distributed=127.0.0.1:{port},{i},{processes}"]
        started.append(child.Started(SEVERAL, argv, folder / f"{name}.{i}.log", devices))
    return started


def ends(running) -> list[tuple[int | None, str]]:
    """Exit code and output of each; none is left behind."""
    try:
        return [process.end(240) for process in running]
    finally:
        for process in running:
            process.kill()


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A folder with a run of two checkpoints, a file of prompts, and what one device continues them with."""
    folder = tmp_path_factory.mktemp("joining")
    made, workdir = runs.untrained(folder, FIELDS, tiny.weights)
    checkpoints = Checkpoints(workdir / "checkpoints", made, 2)
    checkpoints.save(made.training.steps, tiny.weights(made))
    checkpoints.close()
    for name, lines in (("prompts", PROMPTS), ("questions", QUESTIONS)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cli.main(generating(folder, "one")) == 0
    return folder


def generating(folder, out: str) -> list[str]:
    files = [f"--prompts={folder}/prompts.jsonl", f"--out={folder}/{out}.jsonl"]
    return ["generate", f"--workdir={folder}/run", *files, "--max_bytes=10", "--temperature=1.0", "--json"]


@pytest.fixture(scope="module")
def joined(run):
    """What two processes say to four command lines: (exit code, output) of each."""
    workdir = f"--workdir={run}/run"
    lines = [
        ["eval", workdir, "--source", f"text:{run}/text/*.txt", "--split=all", "--json", "--mesh=data:2,fsdp:2"],
        ["calibrate", workdir, "--target_bytes_per_patch=5", "--sample_bytes=2000", "--json"],
        ["audit", f"--config={run}/run/config.json", "--json"],
        generating(run, "two"),
        ["eval", workdir, "--follow", "--json"],
        choosing(run, "two"),
        ["eval", workdir, "--devices=3"],
    ]
    return ends(start(run, "joined", lines))


def choosing(folder, results: str) -> list[str]:
    task = [f"--task=choice:{folder}/questions.jsonl", "--option=choice.shots=1", "--limit=5"]
    task.append(f"--option=choice.shots_from={folder}/questions.jsonl")
    return ["eval", f"--workdir={folder}/run", *task, f"--results={folder}/{results}", "--json"]


def answers(said: str) -> list[dict]:
    return [json.loads(line) for line in said.splitlines() if line.startswith("{")]


def test_one_process_answers_and_all_end_well(joined):
    assert [code for code, _ in joined] == [0] * PROCESSES, joined
    assert [len(answers(said)) for _, said in joined] == [7, 0]
    for _, said in joined:
        assert [line for line in said.splitlines() if line.startswith("code")] == ["code 0"] * 6 + ["code 1"]


def test_bits_are_those_of_one_device(run, joined):
    evaluated, *_ = answers(joined[0][1])
    source = {"source": f"text:{run}/text/*.txt", "split": "all"}
    one, eight = evaluate(run / "run", **source).result, evaluate(run / "run", **source, devices=8).result
    for other in (evaluated, eight):
        assert other["bpb"] == pytest.approx(one["bpb"], abs=1e-6)
        for name in ("bytes", "documents", "trunk_calls_per_byte", "bytes_by_offset", "compressors"):
            assert other[name] == one[name]


def test_a_threshold_is_that_of_one_device(run, joined):
    _, calibrated, *_ = answers(joined[0][1])
    asked = {"bytes_per_patch": 5.0, "sample_bytes": 2000}
    one, eight = calibrate(run / "run", **asked), calibrate(run / "run", **asked, mesh={"fsdp": 4, "tensor": 2})
    for other in (calibrated, eight):
        assert other == one | {"threshold": pytest.approx(one["threshold"], abs=1e-5), "settings": other["settings"]}


def test_a_verdict_is_that_of_one_device(run, joined):
    _, _, audited, *_ = answers(joined[0][1])
    config = runs.config(run, FIELDS)
    for other in (audited, audit_config(config, devices=8).as_dict()):
        assert other["ok"] and other["checked"] == audited["checked"] and not other["findings"]


def test_what_is_written_is_what_one_device_writes(run, joined):
    _, _, _, written, *_ = answers(joined[0][1])
    assert written["rows"] == written["written"] == len(PROMPTS)
    wanted = (run / "one.jsonl").read_bytes()
    assert (run / "two.jsonl").read_bytes() == wanted and not (run / "two.jsonl.partial").exists()
    assert cli.main([*generating(run, "eight"), "--devices=8"]) == 0
    assert (run / "eight.jsonl").read_bytes() == wanted


def test_a_run_is_followed_by_two_processes_of_which_one_writes(run, joined):
    *_, first, last, _ = answers(joined[0][1])
    lines = (run / "run" / "evaluations" / "follow.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [first, last]
    assert (first["step"], last["step"]) == (0, 12) and first["bpb"] == last["bpb"]
    assert last["bpb"] == pytest.approx(evaluate(run / "run").result["bpb"], abs=1e-6)


def test_a_task_is_graded_and_stored_by_one_process(run, joined, capsys):
    """And another command line goes on from what two processes have stored."""
    *_, (two,) = [said["tasks"] for said in answers(joined[0][1]) if "tasks" in said]
    stored = {path.name: path.read_text() for path in (run / "two").iterdir()}
    assert cli.main(choosing(run, "one")) == 0
    (one,) = json.loads(capsys.readouterr().out)["tasks"]
    assert close(two["results"], one["results"]) and two["results"]["items"] == 5
    assert {path.name for path in (run / "one").iterdir()} == stored.keys()
    for name in stored:
        if name.endswith(".jsonl"):
            assert close(*(list(map(json.loads, (run / each / name).open())) for each in ("one", "two")))
    assert cli.main([*choosing(run, "two"), "--devices=8"]) == 0
    assert close(json.loads(capsys.readouterr().out)["tasks"][0]["results"], one["results"])


def close(one, other) -> bool:
    """Whether two values of JSON agree, numbers up to rounding."""
    if isinstance(one, float):
        return one == pytest.approx(other, abs=1e-4)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(close(one[name], other[name]) for name in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(close, one, other))
    return one == other


def test_devices_that_would_be_left_out_are_refused_in_all(joined):
    for _, said in joined:
        assert "scratchpatch: 3 devices were asked for, but 2 processes use all 4" in said


def test_what_fails_in_one_ends_the_other_with_its_message(run):
    """The second one, while the first one waits for it in a collective."""
    line = ["eval", f"--workdir={run}/run", "--json"]
    (code, first), (_, second) = ends(start(run, "failing", [line], failing=1))
    assert code == 1 and "process 1 failed: OSError: [Errno 5] it broke; its own output says where" in first
    assert "scratchpatch: it broke" in second and not answers(first)


def test_a_killed_process_ends_the_other(run):
    """One stops for good while rows are continued: an error, and no file that looks finished."""
    line = generating(run, "killed")
    running = start(run, "killed", [[*line, "--max_bytes=100000"]])
    partial = run / "killed.jsonl.partial"
    until = time.monotonic() + 200
    while not (partial.exists() and partial.stat().st_size):
        assert time.monotonic() < until and all(process.runs() for process in running), ends(running)
        time.sleep(0.05)
    running[1].send(signal.SIGKILL)
    (code, said), (killed, _) = ends(running)
    assert killed == -signal.SIGKILL and code not in (0, None), said
    assert not (run / "killed.jsonl").exists()


@pytest.mark.parametrize(
    "text, axes", [("fsdp:4", {"fsdp": 4}), ("fsdp:4, data:-1", {"fsdp": 4, "data": -1}), ("slice:2", {"slice": 2})]
)
def test_a_mesh_is_axes_and_sizes(text, axes):
    assert joining.parse_mesh(text) == axes


@pytest.mark.parametrize(
    "text, words",
    [
        ("4", "wanted AXIS:SIZE"),
        ("", "wanted AXIS:SIZE"),
        ("fsdp:0", "wanted AXIS:SIZE"),
        ("fsdp=4", "wanted AXIS:SIZE"),
        ("rows:2", "no axis 'rows'; axes: slice, data, fsdp, tensor, sequence"),
        ("fsdp:2,fsdp:4", "fsdp has two sizes"),
        ("fsdp:-1,data:-1", "two sizes are -1"),
    ],
)
def test_a_mesh_that_is_none_is_named(text, words):
    with pytest.raises(UserError, match="^--mesh=.*") as caught:
        joining.parse_mesh(text)
    assert words in str(caught.value)
