"""What a killed process leaves is removed by the next one, and nothing of a living one is."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from scratchpatch.data.index import open_stream
from scratchpatch.data.work_folder import move_away, work_folder

OWNER = (
    "import sys; from pathlib import Path; from scratchpatch.data.work_folder import work_folder\n"
    "with work_folder(Path(sys.argv[1])) as folder:\n"
    "    (folder / 'spill').write_bytes(bytes(1000)); print(folder.name, flush=True); sys.stdin.readline()"
)


@pytest.fixture
def owner(tmp_path):
    """A process that is writing in a folder below tmp_path, and the folder's name."""
    command, pipe = [sys.executable, "-c", OWNER, str(tmp_path)], subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
    yield process, process.stdout.readline().strip()
    process.kill()
    process.communicate()


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_living_ones_is_kept_and_a_killed_ones_is_removed(tmp_path, owner):
    process, name = owner
    with work_folder(tmp_path) as mine:
        assert names(tmp_path) == sorted([name, mine.name])
    assert names(tmp_path) == [name] and names(tmp_path / name) == ["spill"]
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert names(tmp_path) == [name]
    with work_folder(tmp_path):
        assert not (tmp_path / name).exists()
    assert names(tmp_path) == []


def test_many_that_begin_and_sweep_at_once_each_have_their_own(tmp_path):
    folders, problems = [], []

    def begin():
        try:
            for _ in range(50):
                with work_folder(tmp_path) as folder:
                    (folder / "spill").write_bytes(b"x")
                    folders.append(folder)
        except OSError as error:
            problems.append(error)

    threads = [threading.Thread(target=begin) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems and len(set(folders)) == 200 and names(tmp_path) == []


def test_a_build_that_is_killed_leaves_nothing_for_ever(write_texts, cache, tmp_path):
    spec = write_texts([b"%d" % i * 50 for i in range(50)])
    code = (
        "import os, sys; from scratchpatch.data import build; from scratchpatch.data.index import open_stream;"
        "build.Writer.finish = lambda *_: os.kill(os.getpid(), 9); open_stream(sys.argv[1], 'all', sys.argv[2])"
    )
    assert subprocess.run([sys.executable, "-c", code, spec, cache], timeout=60).returncode == -signal.SIGKILL
    left = [path for path in (tmp_path / "cache/index").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in left) > 3000
    assert open_stream(spec, "all", cache).documents == 50
    (place,) = (tmp_path / "cache/index").iterdir()
    assert place.name.startswith("text-")


def no_locks(*_):
    raise OSError(errno.ENOLCK, "No locks available")


def test_what_was_moved_away_is_removed_and_without_locks_what_is_a_day_old(tmp_path, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    (tmp_path / ".damaged-1").mkdir()
    for name in (".building-young", ".building-old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "spill").write_bytes(b"x")
    for path in (tmp_path / ".building-old", tmp_path / ".building-old/spill"):
        os.utime(path, (time.time() - 90_000,) * 2)
    with work_folder(tmp_path) as mine, work_folder(tmp_path):
        assert mine.is_dir()
    assert names(tmp_path) == [".building-young"]


def test_a_file_and_a_link_are_moved_away_too(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "kept").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link", "dangling", "missing"):
        move_away(tmp_path / name)
    assert names(tmp_path) == ["kept"]
