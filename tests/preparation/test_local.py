"""Processes of a preparation: what becomes of the others when one dies."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from scratchpatch.errors import UserError
from scratchpatch.preparation import local


def sleep(note: str) -> None:
    """In a worker: leave its process id in a file, and work for long."""
    Path(note).write_text(str(os.getpid()))
    time.sleep(60)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(true) -> None:
    for _ in range(600):
        if true():
            return
        time.sleep(0.05)
    pytest.fail("it never came true")


def test_a_worker_that_dies_is_an_error_with_a_fix():
    says = "a worker process died, perhaps for lack of memory: the same command goes on; give it fewer --workers"
    with pytest.raises(UserError, match=says):
        local.each(os._exit, [(1,), (1,)], [1, 1], 2, "x")


def test_the_first_error_of_a_worker_is_raised_here():
    with pytest.raises(FileNotFoundError):
        local.each(os.remove, [("/no/such/file",)] * 3, [1, 1, 1], 2, "x")


def test_workers_end_with_a_parent_that_was_killed(tmp_path):
    notes = [str(tmp_path / name) for name in "ab"]
    code = (
        "import sys; from scratchpatch.preparation import local; from tests.preparation.test_local import sleep\n"
        "if __name__ == '__main__': local.each(sleep, [(note,) for note in sys.argv[1:]], [1, 1], 2, 'x')"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, *notes], cwd=Path(__file__).parents[2])
    wait_until(lambda: all(os.path.exists(note) and os.path.getsize(note) for note in notes))
    workers = [int(Path(note).read_text()) for note in notes]
    assert all(map(alive, workers))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not any(map(alive, workers)))
