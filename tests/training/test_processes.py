"""Runs of several processes, over loopback, against the same run in one process."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import chex
import jax
import numpy as np
import pytest

import scratchpatch as sp
from scratchpatch import config as config_lib
from scratchpatch.checkpoints import format, lock
from scratchpatch.checkpoints.reader import CheckpointReader
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.distributed import rendezvous
from scratchpatch.errors import UserError
from scratchpatch.training.loop import train
from scratchpatch.training.step import Trainer
from tests import drill, tiny
from tests import runs as runs_lib

PROCESSES, DEVICES = 4, 2
FIELDS = {
    # Compiled by every process: no layers but the trunk's.
    "model.encoder.layers": 0,
    "model.entropy_head.layers": 0,
    "model.decoder.layers": 0,
    "model.pooling.kind": "mean",
    "training.steps": 6,
    "training.batch_rows": 8,
    "training.accumulation": 2,
    "training.eval_every": 3,
    "training.eval_bytes": 2000,
    "training.checkpoint_every": 2,
    "trigger.gain": 0.02,
}


# As `-m scratchpatch`, but for an audit that breaks and a step that takes an hour to compile.
FAILING = """
import sys, time
from scratchpatch import cli
from scratchpatch.evaluation import audit
from scratchpatch.training.step import Trainer

def fail(config, weights):
    raise OSError(5, "it broke")

audit.audit = fail
Trainer.compile = lambda self: time.sleep(3600)
sys.exit(cli.script())
"""


def command(folder, name: str, *flags: str, program=("-m", "scratchpatch"), config=None) -> list[str]:
    config = config or folder / "config.json"
    if not config.exists():
        config.write_text(json.dumps({"config": config_lib.flat(tiny.config(FIELDS | {"mesh.data": -1}))}))
    return [sys.executable, *program, "train", f"--config={config}", f"--workdir={folder}/{name}", *flags]


def start(folder, name: str, processes: int = PROCESSES, devices: int = DEVICES, own=(), **more) -> list[subprocess.Popen]:
    """The processes of a run; `own`: flags of each; `more`: of `command`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)} | tiny.QUICK_ENVIRONMENT
    found = []
    for i in range(processes):
        flags = [f"--distributed=127.0.0.1:{port},{i},{processes}"] if processes > 1 else []
        line = command(folder, name, *flags, *(own[i] if own else ()), **more)
        found.append(subprocess.Popen(line, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
    return found


def ends(running) -> list[tuple[int, str]]:
    """Exit code and output of each; none is left behind."""
    try:
        return [(p.wait(), said) for p, (said, _) in [(p, p.communicate(timeout=240)) for p in running]]
    finally:
        for p in running:
            p.kill()


def metrics(workdir) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line.get("bpb", line.get("validation_bpb"))) for line in lines]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the run `one`, in one process, and `four`, in four, after a notice of preemption.

    `stored` beside them is what the four had stored.
    """
    folder = tmp_path_factory.mktemp("processes")
    assert [code for code, _ in ends(start(folder, "one", processes=1, devices=1))] == [0]
    running = start(folder, "four")
    path = folder / "four" / "metrics.jsonl"
    while not (path.exists() and path.read_text().count("\n") >= 2):
        assert all(p.poll() is None for p in running), ends(running)
        time.sleep(0.05)
    # One of them is told; all of them stop at one step.
    running[1].send_signal(signal.SIGTERM)
    stopped = ends(running)
    assert [code for code, _ in stopped] == [0] * PROCESSES, stopped
    shutil.copytree(folder / "four", folder / "stored")
    resumed = ends(start(folder, "four", processes=1, devices=8))
    assert resumed[0][0] == 0, resumed
    return folder, stopped, resumed


def test_losses_are_those_of_one_process(runs):
    folder, *_ = runs
    one, four = metrics(folder / "one"), metrics(folder / "four")
    assert [step for step, _ in one] == [step for step, _ in four]
    np.testing.assert_allclose([x for _, x in four], [x for _, x in one], rtol=2e-5)


def test_a_notice_to_one_stops_all_and_eight_devices_go_on(runs):
    folder, stopped, resumed = runs
    assert "stopped by SIGTERM at step" in stopped[0][1] and "training from random weights" in stopped[0][1]
    assert "resumed at step" in resumed[0][1]
    data = bytes(range(256))
    one, four = (sp.load(folder / name).score(data) for name in ("one", "four"))
    np.testing.assert_allclose(four, one, atol=2e-3)


def test_what_four_processes_stored_is_restored_by_1_2_and_8_devices(runs):
    folder, *_ = runs
    reader = CheckpointReader(folder / "stored" / "checkpoints")
    whole = {}
    for devices, fields in ((1, {"mesh.data": 1}), (2, {"mesh.fsdp": 2}), (8, {"mesh.data": 2, "mesh.fsdp": 4})):
        config = tiny.config(FIELDS | {"mesh.data": -1} | fields)
        trainer = Trainer(config, mesh_lib.make(config, jax.devices()[:devices]))
        state = reader.restore_latest(trainer.abstract_state()).state
        assert {len(x.sharding.device_set) for x in jax.tree.leaves(state)} == {devices}
        whole[devices] = jax.device_get(state)
    assert whole[1]["step"] == reader.steps()[-1] >= 2
    chex.assert_trees_all_equal(whole[1], whole[2], whole[8])


def test_two_processes_branch_off_save_on_a_wish_and_stop_on_an_interrupt(runs):
    """Both signals come to the one that neither speaks nor coordinates."""
    folder, *_ = runs
    step = CheckpointReader(folder / "stored" / "checkpoints").steps()[-1]
    flags = {"continue_from": f"{folder}/stored@{step}", "steps": 1_000_000, "checkpoint_every": 0, "eval_every": 0}
    own = tuple(f"--config.training.{name}={value}" for name, value in flags.items())
    running = start(folder, "branch", processes=2, devices=1, own=[own, own])
    workdir = folder / "branch"

    def wait(until):
        deadline = time.monotonic() + 300
        while not until():
            assert time.monotonic() < deadline and all(p.poll() is None for p in running), ends(running)
            time.sleep(0.05)

    wait(lambda: (workdir / "metrics.jsonl").exists() and metrics(workdir)[-1:] > [(step, math.inf)])
    running[1].send_signal(signal.SIGUSR1)
    wait(lambda: CheckpointReader(workdir / "checkpoints").steps())
    running[1].send_signal(signal.SIGINT)
    (code, said), (other, _) = ends(running)
    assert (code, other) == (0, 0), said
    saved, stopped = CheckpointReader(workdir / "checkpoints").steps()
    assert step < saved < stopped
    assert f"stopped by SIGINT at step {stopped} of 1000000" in said and f"training from {folder}/stored@{step}" in said
    # The lines up to there are the other run's, and so is what the first batch says.
    assert [line for line in metrics(workdir) if line[0] <= step] == metrics(folder / "stored")
    here, there = (next(x for at, x in metrics(folder / name) if at == step + 1) for name in ("branch", "four"))
    assert here == pytest.approx(there, rel=2e-5)


def test_one_voice_is_enough(runs):
    _, stopped, _ = runs
    assert "training" in stopped[0][1] and "BPB" not in stopped[1][1]


def test_a_process_that_differs_is_named(tmp_path):
    found = ends(start(tmp_path, "run", devices=1, processes=2, own=[(), ("--config.seed=1",)]))
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


def test_a_workdir_that_one_process_alone_sees_is_refused(tmp_path):
    """As where every host has a disk of its own: a checkpoint would lack the others' share."""
    own = tmp_path / "own"
    own.mkdir()
    found = ends(start(tmp_path, "run", devices=1, processes=2, own=[(), (f"--workdir={own}/run",)]))
    assert [code for code, _ in found] == [1, 1]
    for _, said in found:
        assert "process 1 does not see" in said and "--workdir must lie on storage that all processes share" in said
    assert not list(own.rglob("*")) and not (tmp_path / "run" / "checkpoints").exists()


def test_a_second_run_of_two_processes_is_refused_in_both(tmp_path):
    with lock.hold(tmp_path / "run" / "lock", "trainer"):
        found = ends(start(tmp_path, "run", devices=1, processes=2))
    assert [code for code, _ in found] == [1, 1]
    assert all("in use by another trainer" in said for _, said in found)


def test_a_drill_ends_as_a_calm_run(tmp_path):
    """Four faults, two processes; `python -m tests.drill` is the long one."""
    said = drill.drill(tmp_path, ["full disk", "flip", "second supervisor", "kill the coordinator"], steps=44, processes=2, seed=0)
    assert len(said) == 4


def test_what_fails_in_the_first_process_ends_all_with_its_message(tmp_path):
    """Here its audit, while every process compiles its step for an hour."""
    found = ends(start(tmp_path, "run", devices=1, processes=2, program=["-c", FAILING]))
    assert [code for code, _ in found] == [1, 1], found
    assert "scratchpatch: it broke" in found[0][1]
    assert "scratchpatch: process 0 failed: OSError: [Errno 5] it broke; its own output says where" in found[1][1]
    # What was begun for a run that never trained is free again.
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("form", ["run", "exported"])
def test_two_processes_start_from_weights_that_neither_holds_whole(started, form):
    """With the losses of one process; a process is given half of the weights, and what is small."""
    folder, losses = started
    flags = [f"--config.training.init_from={folder}/from/{form}", "--config.mesh.fsdp=4"]
    found = ends(start(folder, f"two {form}", 2, 2, own=[flags] * 2, program=["-c", STARTING], config=folder / "from.json"))
    assert [code for code, _ in found] == [0, 0], found
    np.testing.assert_allclose([x for _, x in metrics(folder / f"two {form}")], losses, rtol=2e-5)
    for _, said in found:
        held, whole = (int(x) for x in said.split("holds ")[1].split(" bytes")[0].split(" of "))
        assert held < 0.6 * whole, said
    # Each process has read what it wrote, and the first one what is everybody's; together that is all.
    path = folder / f"two {form}" / "checkpoints" / "3"
    files = format.read_about(path)["files"]
    format.check_files(path, format.read_about(path))
    assert set(files) == {str(file.relative_to(path / "state")) for file in path.glob("state/**/*") if file.is_file()}
    for process, (_, said) in enumerate(found):
        # What the first one writes it tells the others: a shared disk may hide it from them for a while.
        opened = {name for name in ("config.json", "data.json") if f"opens {folder}/two {form}/{name}\n" in said}
        assert opened == ({"config.json", "data.json"} if process == 0 else set()), said
        read = {line.partition("3.partial/state/")[2] for line in said.splitlines() if line.startswith("reads ")} - {""}
        assert read == {name for name in files if ("process_1" in name) == (process == 1)}
        assert sum(size for name, (size, _) in files.items() if name in read) > 10_000


# As `-m scratchpatch`, but it says what of the weights that it starts from is in this process, which files of
# checkpoints it reads for their checksums, and which .json files it opens.
STARTING = """
import sys
import jax
from scratchpatch import cli
from scratchpatch.evaluation import audit
from scratchpatch.checkpoints import format
from scratchpatch.training import initial

audit.audit = lambda config, weights: audit.AuditReport((), {}, 0.0)
load = initial.load

def said(*arguments):
    found = load(*arguments)
    arrays = jax.tree.leaves(found)
    held = sum(shard.data.nbytes for x in arrays for shard in x.addressable_shards)
    print("holds", held, "of", sum(x.nbytes for x in arrays), "bytes", flush=True)
    return found

checksum = format._size_and_checksum

def read(path, *more):
    print("reads", path, flush=True)
    return checksum(path, *more)

initial.load, format._size_and_checksum = said, read
sys.addaudithook(lambda event, args: print("opens", args[0], flush=True) if event == "open" and str(args[0]).endswith(".json") else None)
sys.exit(cli.script())
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A folder with weights as a run and exported, a config from.json, and the losses of one process from there."""
    folder = tmp_path_factory.mktemp("started")
    fields = runs_lib.WITH_ENTROPY_MODEL | {"training.steps": 3, "training.batch_rows": 4}
    made, workdir = runs_lib.untrained(folder / "from", fields, tiny.weights)
    sp.export(sp.load(workdir), folder / "from" / "exported", layout="unstacked")
    (folder / "from.json").write_text(json.dumps({"config": config_lib.flat(made)}))
    config = config_lib.from_flat(config_lib.flat(made) | {"training.init_from": str(workdir)})
    with pytest.MonkeyPatch.context() as patch:
        runs_lib.leave_out_audit(patch.setattr)
        runs_lib.compile_quickly(patch.setattr)
        train(config, folder / "one")
    return folder, [x for _, x in metrics(folder / "one")]
