"""Another text of the same name, size and time is another text; the same one elsewhere is not."""

import os
from pathlib import Path

import pytest

from scratchpatch.data import checks
from scratchpatch.data.index import open_stream


def inode(cache):
    (path,) = Path(cache).glob("index/*/all.bin")
    return path.stat().st_ino


@pytest.mark.parametrize("at_once", [0, 1 << 28])
@pytest.mark.parametrize("at", [0, 150_000, 299_999])
def test_another_text_of_the_same_size_and_time_is_read(write_texts, cache, tmp_path, monkeypatch, at, at_once):
    monkeypatch.setattr(checks, "AT_ONCE", at_once)
    spec, path = write_texts([b"a" * 300_000]), tmp_path / "texts/0000.txt"
    before, about = open_stream(spec, "all", cache).checksum, path.stat()
    data = bytearray(path.read_bytes())
    data[at] = ord("z")
    path.write_bytes(data)
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))
    stream = open_stream(spec, "all", cache)
    assert stream.concatenated() == data and stream.checksum != before
    assert len(list(Path(cache, "index").iterdir())) == 1


def test_a_change_that_is_none_costs_no_index(write_texts, cache, tmp_path, monkeypatch):
    spec, path = write_texts([b"abc", b"def"]), tmp_path / "texts/0000.txt"
    open_stream(spec, "all", cache)
    before, about = inode(cache), path.stat()
    (tmp_path / "copy").write_bytes(path.read_bytes())
    os.utime(tmp_path / "copy", ns=(about.st_atime_ns, about.st_mtime_ns))
    os.replace(tmp_path / "copy", path)
    assert open_stream(spec, "all", cache).concatenated() == b"abcdef" and inode(cache) == before
    monkeypatch.setattr("scratchpatch.data.same_text.probe", lambda _: pytest.fail("a state that was seen is compared"))
    open_stream(spec, "all", cache)
