"""Runs of several processes, over loopback, against the same run in one process."""

import json
import math
import shutil
import signal
import socket
import time

import chex
import jax
import numpy as np
import pytest

import scratchpatch as sp
from scratchpatch import config as config_lib
from scratchpatch.checkpoints import format as checkpoint_format, lock
from scratchpatch.checkpoints.reader import CheckpointReader
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.training.loop import train
from scratchpatch.training.step import Trainer
from tests import child, drill, runs as runs_lib, tiny

PROCESSES, DEVICES = 3, 2
FIELDS = {
    # Compiled by every process: no layers but the trunk's.
    "model.encoder.layers": 0,
    "model.entropy_head.layers": 0,
    "model.decoder.layers": 0,
    "model.pooling.kind": "mean",
    "training.steps": 6,
    "training.batch_rows": 12,
    "training.accumulation": 2,
    "training.eval_every": 3,
    "training.eval_bytes": 2000,
    "training.checkpoint_every": 2,
    "trigger.gain": 0.02,
}


# As `-m scratchpatch`, but for an audit that breaks and a step that takes an hour to compile. Before, the same process
# tries what is refused: another seed than the other process has, a workdir that is in use, and one that it alone sees.
FAILING = """
import sys, time
from pathlib import Path
from scratchpatch import cli, config
from scratchpatch.distributed import processes
from scratchpatch.errors import UserError
from scratchpatch.evaluation import audited
from scratchpatch.training import loop
from scratchpatch.training.step import Trainer

def fail(config, weights):
    raise OSError(5, "it broke")

def train(made, workdir, *more):
    me, folder = processes.jax.process_index(), Path(workdir).parent
    other_seed = config.from_flat(config.flat(made) | {"seed": me})
    refusals = [("seed:", other_seed, folder / "differs"), ("used:", made, folder / "used")]
    refusals.append(("alone:", made, folder / ("own" if me else "alone") / "run"))
    for what, fields, refused in refusals:
        try:
            whole(fields, refused, *more)
        except UserError as error:
            print("refused", what, error, flush=True)
    if me:
        # Who fails together with others leaves; this one goes on, and counts the question that it did not ask.
        processes._rounds["together, all"] += 1
    whole(made, workdir, *more)

whole, loop.train = loop.train, train
audited.audit = fail
Trainer.compile = lambda self: time.sleep(3600)
sys.exit(cli.script())
"""


# As `-m scratchpatch`, but for the audit: the drill has it in several processes.
WITHOUT_AUDIT = """
import sys
from scratchpatch import cli
from tests import runs

runs.leave_out_audit()
sys.exit(cli.script())
"""


def start(
    folder, name: str, processes=PROCESSES, devices=DEVICES, own=(), program=WITHOUT_AUDIT, config=None
) -> list[child.Started]:
    """The processes of a run; `own`: flags of each."""
    config = config or folder / "config.json"
    if not config.exists():
        config.write_text(json.dumps({"config": config_lib.flat(tiny.config(FIELDS | {"mesh.data": -1}))}))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = ["train", f"--config={config}", f"--workdir={folder}/{name}"]
    started = []
    for i in range(processes):
        argv = [*line, f"--distributed=127.0.0.1:{port},{i},{processes}", *(own[i] if own else ())]
        started.append(child.Started(program, argv, folder / f"{name}.{i}.log", devices))
    return started


def ends(running) -> list[tuple[int, str]]:
    """Exit code and output of each; none is left behind."""
    try:
        return [process.end(240) for process in running]
    finally:
        for process in running:
            process.kill()


def metrics(workdir) -> list[tuple[int, float]]:
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line.get("bpb", line.get("validation_bpb"))) for line in lines]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the run `one`, in one process, and `three`, in three, after a notice of preemption.

    `stored` beside them is what the three had stored. One process, with six devices, went on from there.
    """
    folder = tmp_path_factory.mktemp("processes")
    running = start(folder, "three")
    path = folder / "three" / "metrics.jsonl"
    while not (path.exists() and path.read_text().count("\n") >= 2):
        assert all(p.runs() for p in running), ends(running)
        time.sleep(0.05)
    # One of them is told; all of them stop at one step.
    running[1].send(signal.SIGTERM)
    stopped = ends(running)
    assert [code for code, _ in stopped] == [0] * PROCESSES, stopped
    shutil.copytree(folder / "three", folder / "stored")
    with pytest.MonkeyPatch.context() as patch:
        runs_lib.leave_out_audit(patch.setattr)
        for name, devices in (("one", 1), ("three", PROCESSES * DEVICES)):
            assert train(tiny.config(FIELDS | {"mesh.data": devices}), folder / name)
    return folder, stopped


def test_losses_are_those_of_one_process(runs):
    folder, _ = runs
    one, three = metrics(folder / "one"), metrics(folder / "three")
    assert [step for step, _ in one] == [step for step, _ in three]
    np.testing.assert_allclose([x for _, x in three], [x for _, x in one], rtol=2e-5)


def test_a_notice_to_one_stops_all_and_six_devices_of_one_process_go_on(runs):
    folder, stopped = runs
    assert "stopped by SIGTERM at step" in stopped[0][1] and "training from random weights" in stopped[0][1]
    # Lines that the three wrote are there unchanged: the run went on from what they stored.
    assert metrics(folder / "stored") == metrics(folder / "three")[: len(metrics(folder / "stored"))]
    data = bytes(range(256))
    one, three = (sp.load(folder / name).score(data) for name in ("one", "three"))
    np.testing.assert_allclose(three, one, atol=2e-3)


def test_what_three_processes_stored_is_restored_by_1_2_and_8_devices(runs):
    folder, _ = runs
    reader = CheckpointReader(folder / "stored" / "checkpoints")
    whole = {}
    for devices, fields in ((1, {"mesh.data": 1}), (2, {"mesh.fsdp": 2}), (8, {"mesh.data": 2, "mesh.fsdp": 4})):
        # Rows that eight devices can share.
        config = tiny.config(FIELDS | {"mesh.data": -1, "training.batch_rows": 16} | fields)
        trainer = Trainer(config, mesh_lib.make(config, jax.devices()[:devices]))
        state = reader.restore_latest(trainer.abstract_state()).state
        assert {len(x.sharding.device_set) for x in jax.tree.leaves(state)} == {devices}
        whole[devices] = jax.device_get(state)
    assert whole[1]["step"] == reader.steps()[-1] >= 2
    chex.assert_trees_all_equal(whole[1], whole[2], whole[8])


def test_two_processes_branch_off_save_on_a_wish_and_stop_on_an_interrupt(runs):
    """Both signals come to the one that neither speaks nor coordinates."""
    folder, _ = runs
    step = CheckpointReader(folder / "stored" / "checkpoints").steps()[-1]
    flags = {"continue_from": f"{folder}/stored@{step}", "steps": 1_000_000, "checkpoint_every": 0, "eval_every": 0}
    own = tuple(f"--config.training.{name}={value}" for name, value in flags.items())
    running = start(folder, "branch", processes=2, devices=1, own=[own, own])
    workdir = folder / "branch"

    def wait(until):
        deadline = time.monotonic() + 300
        while not until():
            assert time.monotonic() < deadline and all(p.runs() for p in running), ends(running)
            time.sleep(0.05)

    wait(lambda: (workdir / "metrics.jsonl").exists() and metrics(workdir)[-1:] > [(step, math.inf)])
    running[1].send(signal.SIGUSR1)
    wait(lambda: CheckpointReader(workdir / "checkpoints").steps())
    running[1].send(signal.SIGINT)
    (code, said), (other, _) = ends(running)
    assert (code, other) == (0, 0), said
    saved, stopped = CheckpointReader(workdir / "checkpoints").steps()
    assert step < saved < stopped
    assert f"stopped by SIGINT at step {stopped} of 1000000" in said and f"training from {folder}/stored@{step}" in said
    # The lines up to there are the other run's, and so is what the first batch says.
    assert [line for line in metrics(workdir) if line[0] <= step] == metrics(folder / "stored")
    here, there = (next(x for at, x in metrics(folder / name) if at == step + 1) for name in ("branch", "three"))
    assert here == pytest.approx(there, rel=2e-5)


def test_one_voice_is_enough(runs):
    _, stopped = runs
    assert "training" in stopped[0][1] and "BPB" not in stopped[1][1]


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """A folder, and exit codes and outputs of two processes of `FAILING`."""
    folder = tmp_path_factory.mktemp("failing")
    with lock.hold(folder / "used" / "lock", "trainer"):
        return folder, ends(start(folder, "run", devices=1, processes=2, program=FAILING))


def test_a_process_that_differs_is_named(failing):
    folder, ended = failing
    for _, said in ended:
        assert "refused seed: process 1 differs from process 0 in seed" in said
    assert not (folder / "differs").exists()


def test_a_second_run_of_two_processes_is_refused_in_both(failing):
    folder, ended = failing
    for _, said in ended:
        assert "used is in use by another trainer" in said
    assert [path.name for path in (folder / "used").iterdir()] == ["lock"]


def test_what_fails_in_the_first_process_ends_all_with_its_message(failing):
    """Here its audit, while every process compiles its step for an hour."""
    folder, ended = failing
    assert [code for code, _ in ended] == [1, 1], ended
    assert "scratchpatch: it broke" in ended[0][1]
    assert "scratchpatch: process 0 failed: OSError: [Errno 5] it broke; its own output says where" in ended[1][1]
    # What was begun for a run that never trained is free again.
    assert not (folder / "run" / "config.json").exists()


def test_a_workdir_that_one_process_alone_sees_is_refused(failing):
    """As where every host has a disk of its own: a checkpoint would lack the others' share."""
    folder, ended = failing
    for _, said in ended:
        (line,) = (line for line in said.splitlines() if line.startswith("refused alone: "))
        assert "process 1 does not see" in line and "--workdir must lie on storage that all processes share" in line
    assert not (folder / "own").exists() and not (folder / "alone" / "run" / "checkpoints").exists()


def test_a_drill_ends_as_a_calm_run(tmp_path):
    """The first of two processes dies, and the newest step is damaged; `python -m tests.drill` is the long one."""
    (said,) = drill.drill(tmp_path, ["flip"], steps=40, processes=2, seed=1)
    assert "process 0 was ended by SIGKILL" in said and "with a bit flipped; resumed at step" in said


# As `-m scratchpatch`, but it says how much of the weights that it starts from is in this process, loads them once more
# from an exported folder, and says which files of checkpoints it reads for their checksums, and which .json files it
# opens.
STARTING = """
import sys
import jax
import numpy as np
from scratchpatch import cli, config
from scratchpatch.checkpoints import format as checkpoint_format
from scratchpatch.evaluation import audited
from scratchpatch.training import start

audited.audit = lambda config, weights: (True, "no audit")
given_weights = start.given_weights

def said(made, shardings):
    exported = config.from_flat(config.flat(made) | {"training.init_from": EXPORTED})
    weights, again = given_weights(made, shardings), given_weights(exported, shardings)
    for tree in (weights, again):
        arrays = jax.tree.leaves(tree)
        held = sum(shard.data.nbytes for x in arrays for shard in x.addressable_shards)
        print("holds", held, "of", sum(x.nbytes for x in arrays), "bytes", flush=True)
    for x, y in zip(jax.tree.leaves(weights), jax.tree.leaves(again), strict=True):
        assert x.sharding == y.sharding
        for a, b in zip(x.addressable_shards, y.addressable_shards, strict=True):
            np.testing.assert_array_equal(a.data, b.data)
    return weights

checksum = checkpoint_format.paths.size_and_checksum

def read(path, *more):
    print("reads", path, flush=True)
    return checksum(path, *more)

def opened(event, args):
    if event == "open" and str(args[0]).endswith(".json"):
        print("opens", args[0], flush=True)

start.given_weights, checkpoint_format.paths.size_and_checksum = said, read
sys.addaudithook(opened)
sys.exit(cli.script())
"""


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A folder with weights as a run and exported, a config from.json, and the losses of one process from there."""
    folder = tmp_path_factory.mktemp("started")
    fields = runs_lib.SHALLOW | runs_lib.WITH_ENTROPY_MODEL | {"training.steps": 3, "training.batch_rows": 4}
    made, workdir = runs_lib.untrained(folder / "from", fields, tiny.weights)
    sp.export(sp.load(workdir), folder / "from" / "exported", layout="unstacked")
    (folder / "from.json").write_text(json.dumps({"config": config_lib.flat(made)}))
    config = config_lib.from_flat(config_lib.flat(made) | {"training.init_from": str(workdir)})
    with pytest.MonkeyPatch.context() as patch:
        runs_lib.leave_out_audit(patch.setattr)
        train(config, folder / "one")
    return folder, [x for _, x in metrics(folder / "one")]


def test_two_processes_start_from_weights_that_neither_holds_whole(started):
    """From a run or an exported folder alike, with the losses of one process; a process is given half of them."""
    folder, losses = started
    flags = [f"--config.training.init_from={folder}/from/run", "--config.mesh.fsdp=4"]
    program = STARTING.replace("EXPORTED", repr(f"{folder}/from/exported"))
    ended = ends(start(folder, "two", 2, 2, own=[flags] * 2, program=program, config=folder / "from.json"))
    assert [code for code, _ in ended] == [0, 0], ended
    np.testing.assert_allclose([x for _, x in metrics(folder / "two")], losses, rtol=2e-5)
    # Each process has read what it wrote, and the first one what is everybody's; together that is all.
    path = folder / "two" / "checkpoints" / "3"
    about = checkpoint_format.read_about(path)
    files = about["files"]
    checkpoint_format.check_files(path, about)
    assert set(files) == {str(file.relative_to(path / "state")) for file in path.glob("state/**/*") if file.is_file()}
    for process, (_, said) in enumerate(ended):
        lines = said.splitlines()
        held = [[int(word) for word in line.split() if word.isdecimal()] for line in lines if line.startswith("holds ")]
        assert len(held) == 2 and all(here < 0.6 * whole for here, whole in held), said
        # What the first one writes it tells the others: a shared disk may hide it from them for a while.
        opened = {name for name in ("config.json", "data.json") if f"opens {folder}/two/{name}" in lines}
        assert opened == ({"config.json", "data.json"} if process == 0 else set()), said
        read = {line.partition("3.partial/state/")[2] for line in lines if line.startswith("reads ")} - {""}
        assert read == {name for name in files if ("process_1" in name) == (process == 1)}
        assert sum(size for name, (size, _) in files.items() if name in read) > 10_000
