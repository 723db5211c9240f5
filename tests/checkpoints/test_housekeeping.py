import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import scratchpatch
from scratchpatch import cli, config as config_lib
from scratchpatch.checkpoints import format, housekeeping
from scratchpatch.checkpoints.writer import Checkpoints
from scratchpatch.data import paths
from scratchpatch.errors import UserError

CONFIG = config_lib.default()
STATE = {"params": {"kernel": jnp.arange(1000.0), "bias": jnp.ones(3)}, "step": jnp.int32(1)}


def store(workdir, bpb):
    """A run that stored the steps of `bpb` (step to validation_bpb, or None)."""
    run = Checkpoints(workdir / "checkpoints", CONFIG, keep_last=99)
    for step, value in bpb.items():
        run.save(step, STATE, {} if value is None else {"validation_bpb": value})
    run.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A workdir with four steps, the best of which is the second."""
    workdir = tmp_path_factory.mktemp("whole")
    store(workdir, {10: 3.0, 20: 2.0, 30: 2.5, 40: None})
    return workdir


@pytest.fixture
def folder(whole, tmp_path):
    """The checkpoints of a copy of that workdir, which is tmp_path."""
    return shutil.copytree(whole / "checkpoints", tmp_path / "checkpoints")


def data_file(step):
    return max((p for p in (step / "state" / "params").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def flip(step):
    data = bytearray(data_file(step).read_bytes())
    data[len(data) // 2] ^= 1
    data_file(step).write_bytes(data)


def truncate(step):
    os.truncate(data_file(step), 100)


def remove_about(step):
    (step / "about.json").unlink()


def remove_state(step):
    shutil.rmtree(step / "state")


DAMAGES = {
    flip: "the checksum of state/params/",
    truncate: "holds 100 bytes instead of",
    remove_about: "about.json cannot be read",
    remove_state: "cannot be read: No such file or directory",
}


def leave_behind(folder):
    for name in ("50.partial", "5.deleted", "7.damaged", "notes"):
        shutil.copytree(folder / "10", folder / name)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_listing_says_what_each_step_is(folder, tmp_path):
    leave_behind(folder)
    os.utime(folder / "20" / "about.json", (0, 86_400))
    result = housekeeping.listing(tmp_path)
    assert [row["step"] for row in result["steps"]] == [10, 20, 30, 40]
    assert [row["validation_bpb"] for row in result["steps"]] == [3.0, 2.0, 2.5, None]
    assert [row["step"] for row in result["steps"] if row["best"]] == [20]
    assert [row["step"] for row in result["steps"] if row["newest"]] == [40]
    assert result["beside"] == ["5.deleted", "7.damaged", "50.partial"]
    row = result["steps"][1]
    assert row["bytes"] == sum(p.stat().st_size for p in (folder / "20" / "state").rglob("*") if p.is_file())
    assert row["arrays"] == 3 and row["version"] == scratchpatch.__version__
    assert row["written"] == "1970-01-02 00:00:00Z" and row["damaged"] is None
    text = housekeeping.listing_table(result).splitlines()
    assert len(text) == 6
    assert text[2].split()[-2:] == ["2.0000", "best"] and text[4].split()[-2:] == ["-", "newest"]
    assert text[5] == "beside them: 5.deleted, 7.damaged, 50.partial"


def test_a_listing_reads_descriptions_alone_and_names_a_damaged_one(folder, tmp_path):
    remove_state(folder / "20")
    remove_about(folder / "40")
    rows = housekeeping.listing(tmp_path)["steps"]
    assert rows[1]["best"] and rows[1]["damaged"] is None
    assert rows[2]["newest"]
    assert rows[3]["step"] == 40 and "about.json cannot be read" in rows[3]["damaged"]
    assert "      40  damaged: about.json cannot be read" in housekeeping.listing_table({"steps": rows, "beside": []})


def test_where_nothing_is_stored_the_listing_is_empty_and_the_rest_is_refused(tmp_path):
    assert housekeeping.listing(tmp_path) == {"steps": [], "beside": [], "durable": None}
    assert housekeeping.listing_table(housekeeping.listing(tmp_path)) == "no step is stored"
    with pytest.raises(UserError, match="holds no checkpoint: train first"):
        housekeeping.verify(tmp_path)
    with pytest.raises(UserError, match="holds no checkpoint: train first"):
        housekeeping.prune(tmp_path, 1, dry_run=False)
    assert names(tmp_path) == []


def test_whole_steps_pass(folder, tmp_path):
    result = housekeeping.verify(tmp_path)
    assert result["steps"] == [{"step": s, "whole": True, "reason": None} for s in (10, 20, 30, 40)]
    assert result["newest_whole"] == 40 and housekeeping.complaint(result) is None


@pytest.mark.parametrize("damage, reason", DAMAGES.items())
def test_damage_is_found_and_the_step_to_go_on_from_is_named(folder, tmp_path, damage, reason):
    damage(folder / "20")
    damage(folder / "40")
    result = housekeeping.verify(tmp_path)
    assert [row["whole"] for row in result["steps"]] == [True, False, True, False]
    assert reason in result["steps"][1]["reason"] and reason in result["steps"][3]["reason"]
    assert result["newest_whole"] == 30
    assert (
        housekeeping.complaint(result)
        == "damaged: steps 20, 40; a resumed run goes on from step 30, the newest whole one"
    )
    assert housekeeping.verify_table(result).splitlines()[0].split() == ["10", "whole"]
    assert "40  damaged: " in housekeeping.verify_table(result)


def test_one_step_is_verified_alone(folder, tmp_path):
    flip(folder / "20")
    assert housekeeping.complaint(housekeeping.verify(tmp_path, 30)) is None
    result = housekeeping.verify(tmp_path, 20)
    assert [row["step"] for row in result["steps"]] == [20]
    assert housekeeping.complaint(result).startswith(
        "damaged: step 20; a resumed run goes on from the newest whole step"
    )
    with pytest.raises(UserError, match="no checkpoint of step 25; stored steps: 10, 20, 30, 40"):
        housekeeping.verify(tmp_path, 25)


def test_where_no_step_is_whole_it_is_said_and_nothing_is_deleted(folder, tmp_path):
    for step in (10, 20, 30, 40):
        truncate(folder / str(step))
    assert "no step is whole, so the run cannot go on" in housekeeping.complaint(housekeeping.verify(tmp_path))
    with pytest.raises(UserError, match="no step in .* is whole: nothing is deleted"):
        housekeeping.prune(tmp_path, 1, dry_run=False)
    assert names(folder) == ["10", "20", "30", "40"]


def test_a_step_that_a_trainer_prunes_meanwhile_is_no_damage(folder, tmp_path, monkeypatch):
    read_about = format.read_about

    def late(step):
        if Path(step).name == "10" and Path(step).exists():
            shutil.rmtree(step)
        return read_about(step)

    monkeypatch.setattr(format, "read_about", late)
    assert [row["step"] for row in housekeeping.verify(tmp_path)["steps"]] == [20, 30, 40]
    store(folder.parent, {10: None})
    assert [row["step"] for row in housekeeping.listing(tmp_path)["steps"]] == [20, 30, 40]


def test_progress_is_shown_of_a_large_step(folder, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO", logger="absl")
    housekeeping.verify(tmp_path)
    assert caplog.text == ""
    monkeypatch.setattr(housekeeping, "_LARGE_BYTES", 1)
    housekeeping.verify(tmp_path, 20)
    size = housekeeping.listing(tmp_path)["steps"][1]["bytes"]
    assert f"step 20 done: {size}/{size} B (100%)" in caplog.text


@pytest.mark.parametrize("keep_last, left", [(1, ["20", "40"]), (2, ["20", "30", "40"]), (9, ["10", "20", "30", "40"])])
def test_the_newest_and_the_best_are_kept_and_leftovers_go(folder, tmp_path, keep_last, left):
    leave_behind(folder)
    before = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    dry = housekeeping.prune(tmp_path, keep_last, dry_run=True)
    assert names(folder) == sorted(["10", "20", "30", "40", "5.deleted", "50.partial", "7.damaged", "notes"])
    result = housekeeping.prune(tmp_path, keep_last, dry_run=False)
    assert names(folder) == [*left, "notes"]
    assert dry == result | {"dry_run": True}
    assert result["kept"] == [int(name) for name in left]
    assert result["bytes"] == before - sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    text = housekeeping.prune_table(result)
    assert "deleted 50.partial  0.0 MB  leftover\n" in text and text.endswith(f"kept: {', '.join(left)}")
    assert "would delete 50.partial" in housekeeping.prune_table(dry) and "would free" in housekeeping.prune_table(dry)
    again = housekeeping.prune(tmp_path, keep_last, dry_run=False)
    assert again["deleted"] == [] and housekeeping.prune_table(again).startswith("nothing to delete\nfreed 0.0 MB")


@pytest.mark.parametrize("damage, reason", DAMAGES.items())
def test_a_damaged_step_takes_no_place_among_the_kept(folder, tmp_path, damage, reason):
    damage(folder / "40")
    damage(folder / "20")
    result = housekeeping.prune(tmp_path, 1, dry_run=False)
    assert names(folder) == ["30"] and result["kept"] == [30]
    why = {d["name"]: d["why"] for d in result["deleted"]}
    assert why["10"] == "older"
    assert why["20"].startswith("damaged: ") and reason in why["40"]


@pytest.fixture
def failing(monkeypatch):
    """Makes every read below a folder fail as a disk or a network does."""
    monkeypatch.setattr(format, "_PAUSES", (0.0, 0.0))
    open_read, tries = paths.open_read, []

    def fail_below(folder, number, times=10**9):
        def open_or_fail(path):
            if folder in Path(path).parents and len(tries) < times:
                tries.append(path)
                raise OSError(number, os.strerror(number))
            return open_read(path)

        monkeypatch.setattr(paths, "open_read", open_or_fail)
        return tries

    return fail_below


@pytest.mark.parametrize("number", [errno.EIO, errno.ETIMEDOUT, errno.ESTALE, errno.EACCES])
@pytest.mark.parametrize("below", ["40", "40/state"])
def test_a_step_that_cannot_be_read_now_is_neither_deleted_nor_counted(folder, tmp_path, failing, number, below):
    tries = failing(folder / below, number)
    result = housekeeping.prune(tmp_path, 1, dry_run=False)
    assert names(folder) == ["20", "30", "40"] and result["kept"] == [20, 30, 40]
    assert os.strerror(number) in result["unread"][40] and len(tries) % 3 == 0
    assert "cannot read 40 now, so it stays: " in housekeeping.prune_table(result)


def test_of_a_step_that_cannot_be_read_now_it_is_said_and_no_more(folder, tmp_path, failing):
    failing(folder / "40", errno.EIO)
    result = housekeeping.verify(tmp_path)
    assert [row["whole"] for row in result["steps"]] == [True, True, True, None] and result["newest_whole"] == 30
    assert housekeeping.verify_table(result).endswith("40  unread: about.json cannot be read: Input/output error")
    assert housekeeping.complaint(result).startswith("could not be read now, so nothing is known of them: step 40; ")
    assert housekeeping.listing(tmp_path)["steps"][3] == {
        "step": 40,
        "unread": "about.json cannot be read: Input/output error",
    }
    assert "40  unread: about.json" in housekeeping.listing_table(housekeeping.listing(tmp_path))


def test_a_read_error_that_passes_is_no_error(folder, tmp_path, failing):
    failing(folder / "40", errno.EIO, times=2)
    assert housekeeping.complaint(housekeeping.verify(tmp_path)) is None


def test_a_trainer_leaves_a_step_that_it_cannot_read_where_it_is(folder, failing, caplog):
    failing(folder / "40", errno.EIO)
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), STATE)
    run = Checkpoints(folder, CONFIG, keep_last=1)
    assert run.restore_latest(target).step == 30
    assert (
        f"checkpoint {folder}/40 cannot be read now (about.json cannot be read: Input/output error): using step 30"
        in caplog.text
    )
    run.save(35, STATE)
    run.wait()
    assert names(folder) == ["20", "35", "40"]
    failing(folder, errno.EIO)
    with pytest.raises(UserError, match="no checkpoint in .* can be read now .*try again"):
        run.restore_latest(target)
    run.close()


def test_an_older_best_step_stands_in_for_a_damaged_one(folder, tmp_path):
    flip(folder / "20")
    flip(folder / "30")
    assert housekeeping.prune(tmp_path, 1, dry_run=False)["kept"] == [10, 40]


def test_a_kill_while_deleting_leaves_no_half_step(folder, tmp_path, monkeypatch):
    killed = []

    def killed_rmtree(path, ignore_errors=False):
        if path.exists():
            killed.append(path.name)
            (path / "about.json").unlink()
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(shutil, "rmtree", killed_rmtree)
        housekeeping.prune(tmp_path, 1, dry_run=False)
    assert killed == ["10.deleted"]
    assert names(folder) == ["10.deleted", "20", "30", "40"]
    assert all(row["whole"] for row in housekeeping.verify(tmp_path)["steps"])
    housekeeping.prune(tmp_path, 1, dry_run=False)
    assert names(folder) == ["20", "40"]


_HOLDER = """
import sys
from scratchpatch.checkpoints.workdir import lock_workdir
with lock_workdir(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def trainer(workdir):
    command = [sys.executable, "-c", _HOLDER, str(workdir)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        yield


def test_nothing_is_deleted_while_a_trainer_holds_the_workdir(folder, tmp_path):
    with trainer(tmp_path):
        for dry_run in (True, False):
            with pytest.raises(UserError, match="in use by another trainer"):
                housekeeping.prune(tmp_path, 1, dry_run)
        assert housekeeping.verify(tmp_path)["newest_whole"] == 40
    assert names(folder) == ["10", "20", "30", "40"]


def test_the_verb_from_damage_to_a_mended_folder(folder, tmp_path, capsys):
    def run(*argv):
        code = cli.main(["checkpoint", *argv, f"--workdir={tmp_path}"])
        return code, *capsys.readouterr()

    flip(folder / "40")
    code, out, err = run("list", "--json")
    assert code == 0 and len(json.loads(out)["steps"]) == 4
    code, out, err = run("verify")
    assert code == 1 and out.count("whole\n") == 3 and "40  damaged: the checksum of" in out
    assert err == "scratchpatch: damaged: step 40; a resumed run goes on from step 30, the newest whole one\n"
    code, out, err = run("verify", "--json")
    assert code == 1 and json.loads(out)["newest_whole"] == 30
    assert run("verify", "--step=30") == (0, "      30  whole\n", "")
    code, out, err = run("prune", "--keep_last=1", "--dry_run")
    assert code == 0 and "would delete 40" in out and len(names(folder)) == 4
    code, out, err = run("prune", "--keep_last=1")
    assert code == 0 and "deleted 40" in out and out.endswith("kept: 20, 30\n") and err == ""
    assert names(folder) == ["20", "30"]
    assert run("verify")[0] == 0
