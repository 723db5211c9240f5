"""The durable tier: what is copied when, which copies count, and what a failure may do."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time

import fsspec
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch import cli, config as config_lib
from scratchpatch.checkpoints import durable, format
from scratchpatch.checkpoints.durable import Tier, fetch_files
from scratchpatch.checkpoints.format import Damaged
from scratchpatch.checkpoints.workdir import guard_workdir
from scratchpatch.checkpoints.writer import Checkpoints
from scratchpatch.errors import UserError


def make_state(seed):
    w = jnp.asarray(np.random.default_rng(seed).normal(size=(16, 32)).astype(np.float32))
    return {"params": {"kernel": w}, "optimizer": {"mu": w * 2}, "step": jnp.int32(seed)}


TARGET = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), make_state(0))


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(durable, "_PAUSES", (0.01, 0.01))


@pytest.fixture
def made(tmp_path):
    config = config_lib.default()
    config.training.durable_dir = str(tmp_path / "durable")
    return config


def opened(made, tmp_path, keep_last=2):
    return Checkpoints(tmp_path / "run" / "checkpoints", made, keep_last)


def train(made, tmp_path, *steps):
    run = opened(made, tmp_path)
    for step in steps:
        run.save(step, make_state(step))
        run.wait()
        while run._mirror.held():
            time.sleep(0.001)
    run.close()


def assert_restores(made, tmp_path, step):
    run = opened(made, tmp_path)
    restored = run.restore_latest(TARGET)
    run.close()
    assert restored.step == step
    for a, b in zip(jax.tree.leaves(restored.state), jax.tree.leaves(make_state(step)), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def flip(step):
    path = max((p for p in (step / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_the_newest_steps_are_there_byte_for_byte_and_bring_a_lost_workdir_back(made, tmp_path):
    train(made, tmp_path, 10, 20, 30)
    tier, local = tmp_path / "durable", tmp_path / "run" / "checkpoints"
    assert names(tier) == ["20", "30"]
    files = [p.relative_to(local) for p in sorted((local / "30").rglob("*")) if p.is_file()]
    assert files == [p.relative_to(tier) for p in sorted((tier / "30").rglob("*")) if p.is_file()]
    assert all((local / p).read_bytes() == (tier / p).read_bytes() for p in files)
    shutil.rmtree(tmp_path / "run")
    assert_restores(made, tmp_path, 30)
    assert names(local) == ["30"]


def test_a_damaged_durable_step_is_named_and_the_one_before_is_used(made, tmp_path, caplog):
    train(made, tmp_path, 10, 20)
    shutil.rmtree(tmp_path / "run")
    flip(tmp_path / "durable" / "20")
    assert_restores(made, tmp_path, 10)
    assert f"durable step {tmp_path}/durable/20 is damaged (the size or checksum of state/" in caplog.text
    # The next save of that step mends it.
    train(made, tmp_path, 20)
    about = format.read_about(tmp_path / "durable" / "20")
    format.check_files(tmp_path / "durable" / "20", about)


def test_a_lost_workdir_whose_durable_steps_are_all_damaged_does_not_begin_anew(made, tmp_path):
    train(made, tmp_path, 10, 20)
    shutil.rmtree(tmp_path / "run")
    for step in ("10", "20"):
        flip(tmp_path / "durable" / step)
    says = "every checkpoint in .*durable is damaged .step 20: .*; step 10: .*, and the workdir has no whole one: re"
    with pytest.raises(UserError, match=says):
        assert_restores(made, tmp_path, 10)


def test_damaged_steps_take_no_place_among_the_kept(made, tmp_path):
    train(made, tmp_path, 30, 40)
    shutil.rmtree(tmp_path / "run")
    for step in ("30", "40"):
        flip(tmp_path / "durable" / step)
    train(made, tmp_path, 14, 18, 22)
    assert names(tmp_path / "durable") == ["18", "22", "30", "40"]


def test_of_two_tiers_the_newer_whole_step_is_used(made, tmp_path, caplog):
    train(made, tmp_path, 10, 20)
    local = tmp_path / "run" / "checkpoints"
    flip(local / "20")
    assert_restores(made, tmp_path, 20)
    assert (local / "20.damaged").exists() and "step 20 (the checksum of state/" in caplog.text
    shutil.rmtree(tmp_path / "durable" / "20")
    assert_restores(made, tmp_path, 20)
    # What the tier lacked, an outage maybe, it has again.
    assert names(tmp_path / "durable") == ["10", "20"]


_COPY = """
import os, pathlib, signal, sys
from scratchpatch.checkpoints.durable import Tier, fetch_files
Tier(sys.argv[1]).store(pathlib.Path(sys.argv[2]), 2, advance=lambda count: os.kill(os.getpid(), signal.SIGKILL))
"""


def test_a_kill_during_the_copy_leaves_no_half_step(made, tmp_path):
    train(made, tmp_path, 10, 20)
    tier, local = Tier(str(tmp_path / "durable")), tmp_path / "run" / "checkpoints"
    shutil.rmtree(tmp_path / "durable" / "20")
    done = subprocess.run([sys.executable, "-c", _COPY, tier.folder, str(local / "20")], check=False)
    assert done.returncode == -signal.SIGKILL
    assert tier.steps() == [10] and names(tmp_path / "durable") == ["10", "20.partial"]
    tier.store(local / "20", 2)
    assert names(tmp_path / "durable") == ["10", "20"]


def test_a_damaged_local_step_is_not_copied(made, tmp_path):
    train(made, tmp_path, 10)
    local, tier = tmp_path / "run" / "checkpoints", Tier(str(tmp_path / "elsewhere"))
    flip(local / "10")
    with pytest.raises(Damaged, match="checksum of state/"):
        tier.store(local / "10", 2)
    assert tier.steps() == []


def test_a_full_tier_is_a_warning_tried_again_and_no_harm_to_the_run(made, tmp_path, caplog, monkeypatch):
    copy, failures = durable.copy, [2]

    def full(step, into, moved):
        if failures[0]:
            failures[0] -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(step, into, moved)

    monkeypatch.setattr(durable, "copy", full)
    caplog.set_level("INFO", logger="absl")
    train(made, tmp_path, 10)
    assert caplog.text.count("No space left on device") == 1
    assert "durable is written again: it has step 10" in caplog.text
    assert names(tmp_path / "durable") == ["10"]
    caplog.clear()
    failures[0] = 5  # all tries of one step, and one of the next
    train(made, tmp_path, 20, 30)
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "cannot copy step 20" in warnings[0] and "the run goes on, and tries again" in warnings[0]
    assert "durable is written again: it has step 30, and lacks: 20" in caplog.text
    failures[0] = 99
    train(made, tmp_path, 40)
    assert "durable does not have the last steps: 40" in caplog.text
    assert_restores(made, tmp_path, 40)


def test_a_tier_that_cannot_be_reached_stops_only_a_run_that_has_nothing_else(made, tmp_path, caplog):
    (tmp_path / "durable").write_text("not a folder")
    says = r"cannot read .*durable: .*start from scratch with --config.training.durable_dir=''"
    with pytest.raises(UserError, match=says):
        opened(made, tmp_path).restore_latest(TARGET)
    train(made, tmp_path, 10)
    assert_restores(made, tmp_path, 10)
    assert "going on from step 10 of the workdir" in caplog.text


def test_training_waits_for_no_copy_and_the_step_is_held_until_it_is_copied(made, tmp_path, monkeypatch):
    go_on, copy, copied = threading.Event(), durable.copy, []

    def slow(step, into, moved):
        go_on.wait()
        copied.append(int(step.name))
        copy(step, into, moved)

    monkeypatch.setattr(durable, "copy", slow)
    run = opened(made, tmp_path, keep_last=1)
    for step in (10, 20, 30):
        run.save(step, make_state(step))
        run.wait()
        while step == 10 and run._mirror._waiting is not None:
            time.sleep(0.001)
    assert names(tmp_path / "run" / "checkpoints") == ["10", "30"] and not copied
    go_on.set()
    run.close()
    # The newest of those that came meanwhile.
    assert copied == [10, 30] and names(tmp_path / "durable") == ["10", "30"]


def test_the_end_does_not_wait_for_a_mount_that_hangs(made, tmp_path, monkeypatch, caplog):
    hung = threading.Event()
    monkeypatch.setattr(durable, "copy", lambda *_: hung.wait())
    monkeypatch.setattr(durable, "_STALLED", 0.3)
    run = opened(made, tmp_path)
    run.save(10, make_state(10))
    run.close()
    assert "durable does not answer: step 10 is on the local disk alone" in caplog.text
    hung.set()


def test_the_copying_thread_ends_with_its_work(made, tmp_path):
    """However many folders a process opens, none of their threads stays."""
    before = set(threading.enumerate())
    idle = opened(made, tmp_path)
    train(made, tmp_path, 10, 20)
    idle.close()
    for thread in set(threading.enumerate()) - before:
        thread.join(10)
        assert not thread.is_alive()


def test_a_tier_may_be_a_bucket(made, tmp_path, caplog, capsys):
    """Any URL that fsspec knows: a lost workdir comes back from it, and damage there is named."""
    made.training.durable_dir = folder = f"memory:/{tmp_path}/bucket"
    guard_workdir(tmp_path / "run", made)
    train(made, tmp_path, 10, 20, 30)
    assert Tier(folder).steps() == [20, 30] and Tier(folder).beside() == []
    assert cli.main(["checkpoint", "list", f"--workdir={tmp_path}/run"]) == 0
    assert f"durable tier {folder} \n" in (said := capsys.readouterr().out) and said.count("newest") == 2
    shutil.rmtree(tmp_path / "run")
    assert_restores(made, tmp_path, 30)
    shutil.rmtree(tmp_path / "run")
    fetch_files(made, tmp_path / "run")
    bucket = fsspec.filesystem("memory")
    largest = max(bucket.find(f"{folder}/30/state"), key=bucket.size)
    bucket.pipe_file(largest, bytes(bucket.size(largest)))
    assert_restores(made, tmp_path, 20)
    assert "bucket/30 is damaged (the size or checksum of state/" in caplog.text
    made.training.durable_dir = "nowhere://bucket/run"
    with pytest.raises(UserError, match="nowhere://bucket/run: Protocol not known"):
        opened(made, tmp_path / "new").restore_latest(TARGET)


def test_the_folder_of_another_experiment_is_refused(made, tmp_path):
    train(made, tmp_path, 10)
    shutil.rmtree(tmp_path / "run")
    made.seed = 7
    says = "durable holds another experiment: seed: 0 -> 7; name a folder of this run alone"
    with pytest.raises(UserError, match=says):
        opened(made, tmp_path).restore_latest(TARGET)


def test_the_verb_lists_both_tiers(made, tmp_path, capsys):
    guard_workdir(tmp_path / "run", made)
    train(made, tmp_path, 10, 20)
    (tmp_path / "durable" / "20" / "about.json").unlink()
    assert cli.main(["checkpoint", "list", f"--workdir={tmp_path}/run"]) == 0
    local, second = capsys.readouterr().out.split(f"durable tier {tmp_path}/durable")
    assert local.count("newest") == 1 and len(local.strip().splitlines()) == 3
    assert "20  damaged: about.json cannot be read" in second and "10  " in second
    assert cli.main(["checkpoint", "list", f"--workdir={tmp_path}/run", "--json"]) == 0
    copies = json.loads(capsys.readouterr().out)["durable"]
    assert [row["step"] for row in copies["steps"]] == [10, 20] and copies["folder"].endswith("durable")
    shutil.rmtree(tmp_path / "durable")
    (tmp_path / "durable").write_text("")
    assert cli.main(["checkpoint", "list", f"--workdir={tmp_path}/run"]) == 0
    assert "durable cannot be read: " in capsys.readouterr().out


def test_small_files_come_back_where_they_are_missing(tmp_path):
    tier, one, other = Tier(str(tmp_path / "durable")), tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    (one / "metrics.jsonl").write_text('{"step": 1}\n')
    (one / "data.json").write_text("{}")
    (other / "data.json").write_text("mine")
    tier.store_files(one)
    tier.fetch_files(other)
    assert names(other) == ["data.json", "metrics.jsonl"]
    assert (other / "data.json").read_text() == "mine" and (other / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert os.listdir(tmp_path / "durable") == ["run"]
