"""Files are compared with their checksums when they have changed, at once or meanwhile."""

import os
from pathlib import Path

import pytest

from scratchpatch.data import checks
from scratchpatch.data.batches import Batches
from scratchpatch.data.index import open_stream
from scratchpatch.errors import UserError


def flip(path: Path, keep_times: bool = False) -> None:
    about, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    if keep_times:
        os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))


@pytest.fixture
def parts(tmp_path):
    """Three files, which are right while they are as they were; and which of them were read."""
    read, found = [], []
    for name in "abc":
        path, wanted = tmp_path / name, name.encode() * 100
        path.write_bytes(wanted)

        def right(path=path, wanted=wanted):
            read.append(path.name)
            return path.read_bytes() == wanted

        found.append(checks.Checked(str(path), 100, right))
    return found, read


def make(parts, tmp_path):
    return checks.Check(parts, tmp_path / "marks/right.json", lambda path: f"{path} is bad")


def test_little_files_are_read_each_time(parts, tmp_path):
    found, read = parts
    make(found, tmp_path), make(found, tmp_path)
    assert read == [*"abcabc"] and not (tmp_path / "marks").exists()
    flip(tmp_path / "b")
    with pytest.raises(checks.Damaged, match="the checksum of .*b is wrong"):
        make(found, tmp_path)


def test_larger_ones_are_read_once_and_when_one_has_changed(parts, tmp_path, monkeypatch):
    found, read = parts
    monkeypatch.setattr(checks, "EACH_TIME", 0)
    make(found, tmp_path), make(found, tmp_path)
    assert read == [*"abc"]
    os.utime(tmp_path / "c", ns=(1, 1))
    make(found, tmp_path)
    assert read == [*"abcc"]
    flip(tmp_path / "a", keep_times=True)
    with pytest.raises(checks.Damaged, match="a is wrong"):
        make(found, tmp_path)


@pytest.mark.parametrize("marker", ["{", "[1]", '{"a": 3}', "[" * 5000, "null"])
def test_a_damaged_marker_says_nothing(parts, tmp_path, monkeypatch, marker):
    found, read = parts
    monkeypatch.setattr(checks, "EACH_TIME", 0)
    (tmp_path / "marks").mkdir()
    (tmp_path / "marks/right.json").write_text(marker)
    make(found, tmp_path)
    assert read == [*"abc"]


def test_the_largest_are_read_in_a_thread_which_says_what_it_found(parts, tmp_path, monkeypatch):
    found, read = parts
    monkeypatch.setattr(checks, "EACH_TIME", 0)
    monkeypatch.setattr(checks, "AT_ONCE", 150)
    check = make(found, tmp_path)
    assert read == ["a"]
    check.raise_damage()
    flip(tmp_path / "c")
    check.start(), check.start()
    check._thread.join()
    assert read == [*"abc"] and not (tmp_path / "marks").exists()
    with pytest.raises(UserError, match="c is bad"):
        check.raise_damage()


def test_a_large_damaged_index_stops_training_and_is_built_anew(write_texts, make_config, monkeypatch):
    spec = write_texts([b"document %d " % i * 20 for i in range(100)])
    config = make_config([(spec, 1.0)])
    wanted = Batches(config).batch(3)
    monkeypatch.setattr(checks, "EACH_TIME", 0)
    monkeypatch.setattr(checks, "AT_ONCE", 1000)
    (path,) = Path(config.data.cache_dir).glob("index/*/train.bin")
    flip(path)
    batches = Batches(config)
    batches.streams[0][0].check._thread.join()
    with pytest.raises(UserError, match=r"the checksum of .*train.bin is wrong.*: start again, and it is built anew"):
        next(iter(batches.iterate()))
    again = Batches(config)
    assert again.streams[0][0].check._thread is None
    assert (again.batch(3) == wanted).all()


def test_only_the_process_of_the_first_row_reads_large_files(write_texts, make_config, monkeypatch):
    config = make_config([(write_texts([b"document %d " % i * 20 for i in range(100)]), 1.0)])
    open_stream(config.data.sources[0][0], "train", config.data.cache_dir, held_out=0.2)
    monkeypatch.setattr(checks, "EACH_TIME", 0)
    monkeypatch.setattr(checks, "AT_ONCE", 0)
    for path in Path(config.data.cache_dir).glob("index/*/right-train.json"):
        path.unlink()
    for rows, started in ([[4, 5], False], [[0, 1], True]):
        (stream, _), = Batches(config, rows=rows).streams
        assert (stream.check._thread is not None) == started
