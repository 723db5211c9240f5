"""Work that nobody waits for."""

import concurrent.futures
import subprocess
import sys
import threading

import pytest

from scratchpatch import background
from scratchpatch.errors import UserError
from scratchpatch.evaluation import audit
from scratchpatch.training.loop import train
from scratchpatch.training.step import Trainer
from tests import runs


def test_the_result_and_the_error_of_the_work():
    turns_taken = []
    assert background.start(lambda: 3).result() == 3
    with pytest.raises(ZeroDivisionError):
        background.start(lambda: 1 // 0).result()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        turns = [background.start(lambda n=n: turns_taken.append(n) or len(turns_taken), pool) for n in range(3)]
        assert [turn.result() for turn in turns] == [1, 2, 3] and turns_taken == [0, 1, 2]
    background.leave(9)  # nothing is at work, so this returns


def test_a_failed_audit_is_reported_while_the_step_compiles(tmp_path, monkeypatch):
    asked = threading.Event()
    monkeypatch.setattr(Trainer, "compile", lambda self: asked.wait(60))

    def fail(config, weights):
        raise UserError("it leaks")

    monkeypatch.setattr(audit, "audit", fail)
    compiling = []
    start = background.start
    monkeypatch.setattr(background, "start", lambda work: compiling.append(start(work)) or compiling[0])
    try:
        with pytest.raises(UserError, match="it leaks"):
            train(runs.config(tmp_path, runs.SHALLOW), tmp_path / "run")
        assert not compiling[0].done()
    finally:
        asked.set()


def test_a_process_leaves_with_its_code_while_something_is_at_work():
    code = (
        "import time; from scratchpatch import background; background.start(lambda: time.sleep(3600)); "
        "print('said', end=''); background.leave(7)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (found.returncode, found.stdout) == (7, "said"), found
