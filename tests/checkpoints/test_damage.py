"""Stored steps that are damaged: each is named, and an older whole one takes its place."""

import os
import shutil
from pathlib import Path

import pytest

from scratchpatch.checkpoints.reader import CheckpointReader
from scratchpatch.checkpoints.writer import Checkpoints
from scratchpatch.errors import UserError
from tests.checkpoints.test_writer import CONFIG, abstract, all_files, assert_same, make_state, store

# pytest resets the filter that arrays.py sets.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine '.*' was never awaited:RuntimeWarning")


def largest_file(step_folder: Path) -> Path:
    """The file that holds the parameters' bytes."""
    files = [p for p in (step_folder / "state" / "params" / "d").iterdir() if p.is_file()]
    return max(files, key=lambda p: p.stat().st_size)


def flip(path: Path, where: float) -> None:
    data = bytearray(path.read_bytes())
    data[int(where * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def _flip_data(step):
    flip(largest_file(step), 0.5)


def _truncate_data(step):
    os.truncate(largest_file(step), 100)


def _remove_data(step):
    largest_file(step).unlink()


def _remove_marker(step):
    (step / "state" / "commit_success.txt").unlink()


def _remove_about(step):
    (step / "about.json").unlink()


def _flip_about(step):
    path = step / "about.json"
    text = path.read_text()
    assert '"validation_bpb": 2.5' in text
    path.write_text(text.replace('"validation_bpb": 2.5', '"validation_bpb": 0.5'))


def _truncate_about(step):
    os.truncate(step / "about.json", 100)


def _empty(step):
    shutil.rmtree(step)
    step.mkdir()


DAMAGES = {
    _flip_data: "the checksum of state/params/d/",
    _truncate_data: " holds 100 bytes instead of ",
    _remove_data: " cannot be read: No such file or directory",
    _remove_marker: "state/commit_success.txt cannot be read",
    _remove_about: "about.json cannot be read",
    _flip_about: "the checksum of about.json is wrong",
    _truncate_about: "about.json cannot be read",
    _empty: "about.json cannot be read",
}


@pytest.mark.parametrize("damage, reason", DAMAGES.items())
def test_a_damaged_step_is_named_and_the_one_before_is_used(tmp_path, caplog, damage, reason):
    store(tmp_path, 10, 20, metrics={20: {"validation_bpb": 2.5}})
    damage(tmp_path / "20")
    reader = CheckpointReader(tmp_path)
    restored = reader.restore_latest(abstract(make_state(0)))
    assert restored.step == 10
    assert_same(restored.state, make_state(10))
    assert f"checkpoint {tmp_path / '20'} is damaged" in caplog.text
    assert reason in caplog.text and "using step 10" in caplog.text and "Traceback" not in caplog.text
    assert reader.steps() == [10, 20]
    with pytest.raises(UserError, match="20 is damaged .*others: 10"):
        reader.restore(20, abstract(make_state(0)))
    owner = Checkpoints(tmp_path, CONFIG, 1)
    assert owner.restore_latest(abstract(make_state(0))).step == 10
    assert owner.steps() == [10] and (tmp_path / "20.damaged").is_dir()
    owner.save(20, make_state(20))
    owner.close()
    assert_same(reader.restore_latest(abstract(make_state(0))).state, make_state(20))


def test_a_flipped_bit_in_any_file_is_found(tmp_path):
    store(tmp_path, 1)
    files = [p for p in all_files(tmp_path / "1") if p.stat().st_size]
    assert len(files) > 10
    for path in files:
        whole = path.read_bytes()
        flip(path, 0.37)
        with pytest.raises(UserError, match=path.name):
            CheckpointReader(tmp_path).restore_latest(abstract(make_state(1)))
        path.write_bytes(whole)
    assert_same(CheckpointReader(tmp_path).restore_latest(abstract(make_state(1))).state, make_state(1))


def test_where_every_step_is_damaged_none_is_used(tmp_path):
    store(tmp_path, 10, 20)
    _flip_data(tmp_path / "10")
    _remove_marker(tmp_path / "20")
    for reader in (CheckpointReader(tmp_path), Checkpoints(tmp_path, CONFIG, 1)):
        with pytest.raises(UserError, match=r"every checkpoint in .*step 20: state/commit_succ.*step 10: the checksum"):
            reader.restore_latest(abstract(make_state(0)))
        assert reader.steps() == [10, 20]
