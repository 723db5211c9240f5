"""Files that a run appends to, on disks that are full, have room again, and were left torn."""

import os

import pytest

from scratchpatch.training import appended
from scratchpatch.training.appended import Appended
from tests.full_disk import Disk


@pytest.fixture
def again(monkeypatch):
    monkeypatch.setattr(appended, "_AGAIN", 0.0)


def warnings(caplog) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]


def test_half_a_piece_is_taken_back_and_all_is_written_once_there_is_room(tmp_path, monkeypatch, caplog, again):
    caplog.set_level("INFO", logger="absl")
    disk, file = Disk(monkeypatch.setattr, "lines", room=9), Appended(tmp_path / "lines")
    for number in range(4):
        file.add(b"line %d\n" % number)
        # Whole lines at every moment: what does not fit is not there by half.
        assert (tmp_path / "lines").read_bytes() == b"line 0\n"
    said = warnings(caplog)
    assert len(said) == 1 and "No space left on device; the run goes on, and tries again" in said[0]
    disk.room = None
    file.add(b"line 4\n")
    file.close()
    assert (tmp_path / "lines").read_bytes() == b"".join(b"line %d\n" % number for number in range(5))
    assert len(warnings(caplog)) == 1 and "is written again: nothing is missing" in caplog.text


def test_half_a_piece_that_cannot_be_taken_back_at_once_is_later(tmp_path, monkeypatch, again):
    disk, file = Disk(monkeypatch.setattr, "lines", room=9), Appended(tmp_path / "lines")
    with monkeypatch.context() as patch:
        patch.setattr(os, "ftruncate", lambda *_: (_ for _ in ()).throw(OSError(5, "Input/output error")))
        file.add(b"line 0\n")
        file.add(b"line 1\n")
        assert (tmp_path / "lines").read_bytes() == b"line 0\nli"
    disk.room = None
    file.add(b"line 2\n")
    file.close()
    assert (tmp_path / "lines").read_bytes() == b"line 0\nline 1\nline 2\n"


def test_between_two_tries_nothing_is_tried_and_the_end_tries_once_more(tmp_path, monkeypatch):
    tries = []

    def fail(self):
        tries.append(None)
        raise OSError(28, "full")

    monkeypatch.setattr(Appended, "_open", fail)
    file = Appended(tmp_path / "lines")
    for _ in range(100):
        file.add(b"a line\n")
    assert len(tries) == 1
    file.close()
    assert len(tries) == 2


def test_memory_is_bounded_and_what_is_lost_is_counted(tmp_path, monkeypatch, caplog, again):
    caplog.set_level("INFO", logger="absl")
    monkeypatch.setattr(appended, "_MOST", 3)
    disk, file = Disk(monkeypatch.setattr, "lines"), Appended(tmp_path / "lines")
    for number in range(8):
        file.add(b"%d\n" % number)
    disk.room = None
    file.add(b"8\n")
    assert (tmp_path / "lines").read_bytes() == b"6\n7\n8\n" and "6 pieces before are lost" in caplog.text
    disk.room = 0
    file.add(b"9\n")
    file.close()
    assert (tmp_path / "lines").read_bytes() == b"6\n7\n8\n"
    assert "lacks what could not be written (1 pieces)" in caplog.text


TORN = [(b"", b""), (b"a\nb", b"a\n"), (b"no newline" * 20_000, b""), (b"a\n", b"a\n")]


@pytest.mark.parametrize(("left", "kept"), TORN)
def test_a_line_that_a_kill_has_torn_is_cut_off(tmp_path, left, kept):
    (tmp_path / "lines").write_bytes(left)
    file = Appended(tmp_path / "lines")
    file.add(b"c\n")
    file.close()
    assert (tmp_path / "lines").read_bytes() == kept + b"c\n"


def test_what_a_file_begins_with_is_there_once_however_late(tmp_path, monkeypatch, again):
    disk, file = Disk(monkeypatch.setattr, "events", room=3), Appended(tmp_path / "folder" / "events", b"begin;")
    file.add(b"one;")
    assert (tmp_path / "folder" / "events").read_bytes() == b""
    disk.room = None
    file.add(b"two;")
    file.close()
    file.add(b"three;")
    file.close()
    assert (tmp_path / "folder" / "events").read_bytes() == b"begin;one;two;three;"


def test_pipes_devices_and_folders_are_no_reason_to_wait(tmp_path, caplog):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "device", "folder"):
        file = Appended(tmp_path / name)
        file.add(b"a line\n")
        file.close()
    assert len(warnings(caplog)) == 3
