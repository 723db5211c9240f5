"""Who reads a run's steps while the run stores and removes them."""

import contextlib
import json
import os
import shutil
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import scratchpatch as sp
from scratchpatch import config as config_lib
from scratchpatch.checkpoints import arrays, format, housekeeping, lock, reader as reader_lib, workdir as workdir_lib
from scratchpatch.checkpoints.reader import CheckpointReader, Removed
from scratchpatch.checkpoints.writer import Checkpoints
from scratchpatch.errors import UserError
from scratchpatch.model import weights as weights_lib
from tests import runs
from tests.checkpoints.test_format import seal

# pytest resets the filter that arrays.py sets.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine '.*' was never awaited:RuntimeWarning")

CONFIG = config_lib.default()
READS = 12


def state(step):
    return {
        "params": {"w": jnp.full((3, 4), step, jnp.float32), "b": jnp.full(5, step, jnp.bfloat16)},
        "step": jnp.int32(step),
    }


ABSTRACT = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state(0))


def store(folder, *steps, config=CONFIG, keep_last=9):
    checkpoints = Checkpoints(folder, config, keep_last)
    for step in steps:
        checkpoints.save(step, state(step))
    checkpoints.close()
    return folder


def assert_is(restored, step):
    assert restored.step == restored.metadata["step"] == step
    assert all((np.asarray(x) == step).all() for x in jax.tree.leaves(restored.state))


@contextlib.contextmanager
def writer(checkpoints, make, first=1):
    """A run at work: it stores step after step and keeps the newest alone."""
    stop, failed = threading.Event(), []

    def work():
        step = first
        try:
            while not stop.is_set():
                checkpoints.save(step, make(step))
                step += 1
            checkpoints.close()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failed


def test_whoever_reads_beside_a_writer_gets_a_whole_step_or_one_line(tmp_path):
    folder = store(tmp_path / "checkpoints", 1)
    steps, verified, refused = [], 0, 0
    with writer(Checkpoints(folder, CONFIG, 1), state, first=2):
        while len(steps) < READS or steps[-1] == steps[0]:
            reader = CheckpointReader(folder, CONFIG)
            restored = reader.restore_latest(ABSTRACT)
            assert_is(restored, restored.step)
            steps.append(restored.step)
            assert not any(row["damaged"] for row in housekeeping.listing(tmp_path)["steps"])
            try:
                assert housekeeping.complaint(housekeeping.verify(tmp_path)) is None
                verified += 1
                step = reader.steps()[-1]
                assert_is(reader.restore(step, ABSTRACT), step)
            except UserError:
                refused += 1
    assert steps == sorted(steps) and verified


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """(config, weights) of a tiny model."""
    config = runs.config(tmp_path_factory.mktemp("model"), runs.SHALLOW)
    return config, weights_lib.random(config, 0)


def save_run(workdir, config, weights):
    """A run that was saved at step 0."""
    workdir_lib.guard_workdir(workdir, config)
    checkpoints = Checkpoints(workdir / "checkpoints", config, 1)
    checkpoints.save(0, weights)
    checkpoints.close()
    return workdir


def test_a_model_is_loaded_beside_a_writer(tmp_path, model):
    config, weights = model
    run, loaded = save_run(tmp_path / "run", config, weights), []
    with writer(Checkpoints(run / "checkpoints", config, 1), lambda step: weights):
        while len(loaded) < 3 or loaded[-1] == loaded[0]:
            loaded.append(sp.load(run).step)
    assert loaded == sorted(loaded)


def removing(monkeypatch, folder, steps):
    """Let each step of these vanish in the middle of its read, as the run stores the next one."""
    read = arrays.load

    def late(path, targets):
        step = int(path.parent.name)
        if step in steps:
            store(folder, step + 1)
            shutil.rmtree(folder / str(step))
        return read(path, targets)

    monkeypatch.setattr(arrays, "load", late)


def test_a_step_that_vanishes_in_the_middle_of_a_read_is_no_error_but_where_it_was_named(tmp_path, monkeypatch):
    folder = store(tmp_path / "checkpoints", 1, 2, 3)
    removing(monkeypatch, folder, {3, 4})
    assert_is(CheckpointReader(folder).restore_latest(ABSTRACT), 5)
    removing(monkeypatch, folder, {5})
    with pytest.raises(Removed, match="5 was removed while it was read"):
        CheckpointReader(folder).restore(5, ABSTRACT)
    with pytest.raises(UserError, match="no checkpoint of step 5; stored steps: 1, 2, 6"):
        CheckpointReader(folder).restore(5, ABSTRACT)
    monkeypatch.setattr(reader_lib, "TRIES", 3)
    removing(monkeypatch, folder, range(99))
    with pytest.raises(UserError, match="removed before it was read, 3 times, by the run at work"):
        CheckpointReader(folder).restore_latest(ABSTRACT)


def test_a_step_that_is_being_read_stays_until_the_next_save(tmp_path, monkeypatch, caplog):
    run, read = Checkpoints(tmp_path, CONFIG, 1), arrays.load
    run.save(1, state(1))
    run.wait()

    def slow(path, targets):
        for step in (2, 3):
            run.save(step, state(step))
            run.wait()
            assert run.steps() == [1, step]
        return read(path, targets)

    with monkeypatch.context() as patch:
        patch.setattr(arrays, "load", slow)
        assert_is(CheckpointReader(tmp_path).restore_latest(ABSTRACT), 1)
    run.save(4, state(4))
    run.close()
    assert os.listdir(tmp_path) == ["4"] and "cannot remove" not in caplog.text


def test_a_disk_without_locks_is_read_and_pruned_without(tmp_path, monkeypatch):
    def no_locks(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr(lock.fcntl, "flock", no_locks)
    run = Checkpoints(tmp_path, CONFIG, 1)
    for step in (1, 2):
        run.save(step, state(step))
        run.wait()
        assert_is(CheckpointReader(tmp_path).restore_latest(ABSTRACT), step)
    run.close()
    assert os.listdir(tmp_path) == ["2"]
    with (
        pytest.raises(UserError, match="cannot lock .*lock: No locks available; use a --workdir on"),
        workdir_lib.lock_workdir(tmp_path),
    ):
        pass


def test_what_is_removed_after_it_was_read_may_have_been_half_there(tmp_path, monkeypatch):
    """And what was stored anew under the same number is another step."""
    folder, read = store(tmp_path / "checkpoints", 1, 2), arrays.load

    def early(path, targets):
        restored = read(path, targets)
        monkeypatch.undo()
        shutil.rmtree(path.parent)
        other = Checkpoints(folder, CONFIG, 9)
        other.save(2, state(7))
        other.close()
        return restored

    monkeypatch.setattr(arrays, "load", early)
    restored = CheckpointReader(folder).restore_latest(ABSTRACT)
    assert restored.step == 2 and all((np.asarray(x) == 7).all() for x in jax.tree.leaves(restored.state))


def test_verification_starts_over_where_all_steps_were_removed_meanwhile(tmp_path, monkeypatch):
    folder, check = store(tmp_path / "checkpoints", 1), format.check_files

    def late(step, *described, **how):
        if step.name == "1":
            store(folder, 2)
            shutil.rmtree(step)
        check(step, *described, **how)

    monkeypatch.setattr(format, "check_files", late)
    assert housekeeping.verify(tmp_path) == {"steps": [{"step": 2, "whole": True, "reason": None}], "newest_whole": 2}


def test_a_step_that_vanishes_while_it_is_examined(tmp_path, monkeypatch, caplog):
    folder, check = store(tmp_path / "checkpoints", 1, 2, 3), format.check_files

    def late(step, *described, **how):
        if step.name == "3":
            shutil.rmtree(step)
        check(step, *described, **how)

    monkeypatch.setattr(format, "check_files", late)
    assert_is(CheckpointReader(folder).restore_latest(ABSTRACT), 2)
    assert "damaged" not in caplog.text
    store(folder, 3)
    with pytest.raises(UserError, match="no checkpoint of step 3; stored steps: 1, 2"):
        CheckpointReader(folder).restore(3, ABSTRACT)
    store(folder, 3)
    with pytest.raises(UserError, match="no checkpoint of step 3; stored steps: 1, 2"):
        housekeeping.verify(tmp_path, 3)


def test_files_that_are_whole_but_no_arrays_are_one_line(tmp_path):
    folder = store(tmp_path / "checkpoints", 1)
    about = format.read_about(folder / "1")
    for name in about["files"]:
        if "/" in name:
            (folder / "1" / "state" / name).write_bytes(b"nothing")
    seal(folder / "1", about | {"files": format.checksums(folder / "1", lambda name: True)})
    with pytest.raises(UserError, match=f"^checkpoint {folder}/1 cannot be read: "):
        CheckpointReader(folder).restore_latest(ABSTRACT)


def test_names_that_are_no_steps_are_none(tmp_path):
    folder = store(tmp_path / "checkpoints", 7, 8)
    for name in ("0008", "٩", "0009.partial", "0010.deleted"):
        shutil.copytree(folder / "7", folder / name)
    reader = CheckpointReader(folder)
    assert reader.steps() == [7, 8] and reader.beside("partial", "deleted") == []
    run = Checkpoints(folder, CONFIG, 1)
    assert_is(run.restore_latest(ABSTRACT), 8)
    run.save(9, state(9))
    run.close()
    assert sorted(os.listdir(folder)) == ["0008", "0009.partial", "0010.deleted", "9", "٩"]


def test_an_evaluation_compares_the_step_with_the_runs_config(tmp_path, model):
    run = save_run(tmp_path / "run", *model)
    path = run / "config.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"config": document["config"] | {"patching.kind": "random"}}))
    with pytest.raises(UserError, match="is of another experiment: patching.kind: 'fixed' -> 'random'"):
        sp.load(run)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(tmp_path, model, value):
    config, weights = model
    names = ("params", "decoder", "logits", "projection", "kernel")
    spoilt = jax.tree_util.tree_map_with_path(
        lambda path, x: x.at[3, 5].set(value) if tuple(key.key for key in path) == names else x, weights
    )
    run, name = save_run(tmp_path / "run", config, spoilt), ".".join(names)
    for devices in (1, 2):
        with pytest.raises(UserError, match=f"weights of .*run, step 0 hold NaN or infinite numbers, in {name}: use"):
            sp.load(run, devices=devices)


def test_thresholds_may_be_infinite_but_are_numbers(tmp_path, model):
    config, weights = model
    named = dict.fromkeys(weights["thresholds"], jnp.float32(np.nan))
    run = save_run(tmp_path / "nan", config, weights | {"thresholds": named})
    with pytest.raises(UserError, match="in thresholds.patching_threshold, thresholds.trigger_threshold"):
        sp.load(run)
    config = config.copy_and_resolve_references().unlock()
    config.trigger.threshold = float("inf")
    infinite = dict.fromkeys(weights["thresholds"], jnp.float32(np.inf))
    lm = sp.load(save_run(tmp_path / "inf", config, weights | {"thresholds": infinite}))
    assert lm.config.trigger.threshold == float("inf") and np.isfinite(lm.score(b"abc")).all()


def test_links_and_files_among_the_steps_are_removed_as_what_they_are(tmp_path):
    folder = store(tmp_path / "checkpoints", 1, 2)
    elsewhere = store(tmp_path / "elsewhere", 3) / "3"
    (folder / "3").symlink_to(elsewhere)
    assert_is(CheckpointReader(folder).restore_latest(ABSTRACT), 3)
    (folder / "0").write_text("no folder")
    (folder / "5.partial").symlink_to(elsewhere)
    run = Checkpoints(folder, CONFIG, 1)
    run.save(4, state(4))
    run.close()
    assert os.listdir(folder) == ["4"]
    assert_is(CheckpointReader(tmp_path / "elsewhere").restore_latest(ABSTRACT), 3)


def test_a_step_that_cannot_be_removed_is_a_warning_and_tried_again(tmp_path, monkeypatch, caplog):
    """As on a network disk, where another program has a file of it open."""
    run = Checkpoints(tmp_path, CONFIG, 1)
    rmtree = shutil.rmtree

    def busy(path, *rest, **more):
        if str(path).endswith("1.deleted"):
            raise OSError(39, "Directory not empty", str(path))
        rmtree(path, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", busy)
        for step in (1, 2, 3):
            run.save(step, state(step))
        run.wait()
        assert sorted(os.listdir(tmp_path)) == ["1.deleted", "3"]
        assert "Directory not empty" in caplog.text
    run.save(4, state(4))
    run.close()
    assert os.listdir(tmp_path) == ["4"]


def test_a_lock_is_not_written_through_a_link(tmp_path):
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "lock").symlink_to(tmp_path / "mine")
    with (
        pytest.raises(UserError, match="cannot write .*lock: Too many levels of symbolic links"),
        workdir_lib.lock_workdir(tmp_path),
    ):
        pass
    assert (tmp_path / "mine").read_text() == "mine"
