import os
import socket
import threading
from pathlib import Path

import pytest

from scratchpatch import files


@pytest.mark.parametrize(
    "name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a/.", "a\0b", "..\\x", None, 3]
)
def test_a_name_that_leads_elsewhere_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="no plain relative path"):
        files.below(tmp_path, name)


def test_a_plain_name_is_a_path_below_the_folder_and_links_are_not_followed(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "file").write_text("")
    assert files.below(tmp_path, "real/file") == tmp_path / "real" / "file"
    assert files.below(tmp_path, "not/there") == tmp_path / "not" / "there"
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "dangling").symlink_to("/nowhere")
    for name in ("link/file", "link", "dangling"):
        with pytest.raises(ValueError, match="not followed"):
            files.below(tmp_path, name)


def test_only_regular_files_are_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's path must be short
    os.mkfifo("pipe")
    socket.socket(socket.AF_UNIX).bind("socket")
    for path, what in (("pipe", "a named pipe"), (tmp_path, "a folder"), ("/dev/zero", "a device")):
        with pytest.raises(OSError) as caught:
            files.open_regular(path)
        assert caught.value.strerror == f"it is {what}, and only regular files are read"
        assert caught.value.filename == os.fspath(path)
    with pytest.raises(OSError):
        files.open_regular("socket")
    Path("file").write_bytes(b"text")
    Path("link").symlink_to("file")
    with files.open_regular("link") as file:
        assert file.read() == b"text"


def test_a_text_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path):
    path = tmp_path / "a.json"
    files.replace_text(path, "one")
    files.replace_text(path, "two")
    assert path.read_text() == "two" and list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_text_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    files.replace_text(path, "one")
    with monkeypatch.context() as patch, pytest.raises(OSError) as caught:
        patch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        files.replace_text(path, "two")
    assert (caught.value.errno, caught.value.filename) == (28, str(path))
    assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]


def test_what_a_killed_writer_left_goes_once_it_is_old(tmp_path):
    path = tmp_path / "a.json"
    for name in ("a.json.old.tmp", "a.json.young.tmp", "b.json.old.tmp"):
        (tmp_path / name).write_text("torn")
    for name in ("a.json.old.tmp", "b.json.old.tmp"):
        os.utime(tmp_path / name, (0, 0))
    files.replace_text(path, "one")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.json.young.tmp", "b.json.old.tmp"]


def test_of_writers_at_once_the_last_whole_one_stays(tmp_path):
    path, texts = tmp_path / "a.json", [str(number) * 10000 for number in range(4)]
    threads = [threading.Thread(target=lambda t=t: [files.replace_text(path, t) for _ in range(25)]) for t in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts and list(tmp_path.iterdir()) == [path]


def test_a_file_that_a_user_named_is_replaced_and_a_pipe_is_written_into(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    files.write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
    files.write_text(tmp_path / "first", "new")
    assert (tmp_path / "first").read_text() == "new" and len(list(tmp_path.iterdir())) == 3
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    files.write_text(tmp_path / "pipe", "new")
    reader.join()
    files.write_text("/dev/null", "new")
    assert got == ["new"] and not Path("/dev/null").is_file()
