"""Runs of two processes of two devices each, over loopback, against the same run in one process."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import scratchpatch as sp
from scratchpatch.errors import UserError
from scratchpatch.parallel import rendezvous
from tests import tiny

PROCESSES, DEVICES = 2, 2
FIELDS = {
    "training.steps": 6,
    "training.batch_rows": 8,
    "training.accumulation": 2,
    "training.eval_every": 3,
    "training.eval_bytes": 2000,
    "training.checkpoint_every": 2,
    "trigger.gain": 0.02,
}


def command(folder, name: str, *flags: str) -> list[str]:
    config = folder / "config.json"
    if not config.exists():
        from scratchpatch import config as config_lib

        config.write_text(json.dumps({"config": config_lib.flat(tiny.config(FIELDS | {"mesh.data": -1}))}))
    return [sys.executable, "-m", "scratchpatch", "train", f"--config={config}", f"--workdir={folder}/{name}", *flags]


def start(folder, name: str, processes: int = PROCESSES, devices: int = DEVICES, own=()) -> list[subprocess.Popen]:
    """The processes of a run; `own`: flags of each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    found = []
    for i in range(processes):
        flags = [f"--distributed=127.0.0.1:{port},{i},{processes}"] if processes > 1 else []
        line = command(folder, name, *flags, *(own[i] if own else ()))
        found.append(subprocess.Popen(line, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    return found


def ends(running) -> list[tuple[int, str]]:
    """Exit code and output of each."""
    return [(p.wait(), said) for p, (said, _) in [(p, p.communicate(timeout=240)) for p in running]]


def metrics(workdir) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line.get("bpb", line.get("validation_bpb"))) for line in lines]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the run `one`, in one process, and `two`, in two, after a notice of preemption."""
    folder = tmp_path_factory.mktemp("processes")
    assert [code for code, _ in ends(start(folder, "one", processes=1, devices=1))] == [0]
    running = start(folder, "two")
    path = folder / "two" / "metrics.jsonl"
    while not (path.exists() and path.read_text().count("\n") >= 2):
        assert all(p.poll() is None for p in running), ends(running)
        time.sleep(0.05)
    # One of them is told; all of them stop at one step.
    running[1].send_signal(signal.SIGTERM)
    stopped = ends(running)
    assert [code for code, _ in stopped] == [0, 0], stopped
    resumed = ends(start(folder, "two", processes=1, devices=8))
    assert resumed[0][0] == 0, resumed
    return folder, stopped, resumed


def test_losses_are_those_of_one_process(runs):
    folder, *_ = runs
    one, two = metrics(folder / "one"), metrics(folder / "two")
    assert [step for step, _ in one] == [step for step, _ in two]
    np.testing.assert_allclose([x for _, x in two], [x for _, x in one], rtol=2e-5)


def test_a_notice_to_one_stops_all_and_eight_devices_go_on(runs):
    folder, stopped, resumed = runs
    assert "stopped by SIGTERM at step" in stopped[0][1] and "training from random weights" in stopped[0][1]
    assert "resumed at step" in resumed[0][1]
    data = bytes(range(256))
    one, two = (sp.load(folder / name).score(data) for name in ("one", "two"))
    np.testing.assert_allclose(two, one, atol=2e-3)


def test_one_voice_is_enough(runs):
    _, stopped, _ = runs
    assert "training" in stopped[0][1] and "BPB" not in stopped[1][1]


def test_a_process_that_differs_is_named(tmp_path):
    found = ends(start(tmp_path, "run", devices=1, own=[(), ("--config.seed=1",)]))
    assert [code for code, _ in found] == [1, 1]
    for _, said in found:
        assert "process 1 differs from process 0 in seed" in said
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("text", ["127.0.0.1,0,2", "host:1,2", "two", "host:1,2,2"])
def test_where_processes_meet_is_read_strictly(text):
    with pytest.raises(UserError, match="--distributed="):
        rendezvous.parse(text)


def test_where_processes_meet():
    assert rendezvous.parse("host:1,0,2") == rendezvous.Rendezvous("host:1", 0, 2)
    assert rendezvous.parse("none") is rendezvous.parse("auto") is None


def test_a_drill_ends_with_the_parameters_of_a_calm_run(tmp_path):
    """A worker and the coordinator are killed: bit for bit the same in the end."""
    assert [code for code, _ in ends(start(tmp_path, "calm"))] == [0, 0]
    script = Path(__file__).parents[2] / "launch" / "supervise"
    train = command(tmp_path, "drill")[4:]
    line = [sys.executable, script, "--processes=2", "--devices_per_process=2", "--restarts=3", "--", *train]
    running = subprocess.Popen(line, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    path = tmp_path / "drill" / "metrics.jsonl"
    for lines, process in ((2, 1), (5, 0)):
        while not (path.exists() and path.read_text().count("\n") >= lines):
            assert running.poll() is None, running.communicate()
            time.sleep(0.02)
        found = subprocess.run(["pgrep", "-f", f"{tmp_path}/drill.*,{process},2"], capture_output=True, text=True, check=False)
        for pid in found.stdout.split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    said, _ = running.communicate(timeout=240)
    assert running.returncode == 0, said
    assert "process 1 was ended by SIGKILL" in said
    calm, drill = (sp.load(tmp_path / name) for name in ("calm", "drill"))
    assert calm.step == drill.step == FIELDS["training.steps"]
    same = jax.tree.map(np.array_equal, calm.weights, drill.weights)
    assert all(jax.tree.leaves(same))
    assert metrics(tmp_path / "calm") == metrics(tmp_path / "drill")
