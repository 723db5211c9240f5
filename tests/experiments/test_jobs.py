"""Runs of studies: where their processes run, and which of them are run at all."""

import json
import os

import pytest

from experiments import jobs
from scratchpatch import platforms

# What a process says of itself, as the code that `python -m timeit` runs.
_CODE = """
import json, os, pathlib
told = dict(cores=sorted(os.sched_getaffinity(0)), variables=dict(os.environ))
pathlib.Path(%r).write_text(json.dumps(told))
"""


def _job(folder) -> jobs.Job:
    code = _CODE % str(folder / "result.json")
    return jobs.Job(folder.name, folder, "timeit", ["-n", "1", "-r", "1", code])


@pytest.mark.parametrize("accelerator", (False, True))
def test_runs_have_a_core_each_or_share_an_accelerator(tmp_path, monkeypatch, accelerator):
    monkeypatch.setattr(platforms, "accelerator", lambda: accelerator)
    monkeypatch.setenv("JAX_DEFAULT_MATMUL_PRECISION", "float32")
    monkeypatch.delenv("XLA_PYTHON_CLIENT_PREALLOCATE", raising=False)
    job = _job(tmp_path / "run")
    jobs.run([job], 1, "test")
    told = json.loads(job.result.read_text())
    assert told["cores"] == (sorted(os.sched_getaffinity(0)) if accelerator else [0])
    assert told["variables"].get("XLA_PYTHON_CLIENT_PREALLOCATE") == ("false" if accelerator else None)
    assert told["variables"]["JAX_DEFAULT_MATMUL_PRECISION"] == "float32", "what the user says is kept"


def test_a_run_that_has_a_result_is_not_run_again_and_one_that_fails_is_named(tmp_path):
    done, failing = _job(tmp_path / "done"), jobs.Job("failing", tmp_path / "failing", "timeit", ["1 / 0"])
    done.folder.mkdir()
    done.result.write_text("{}")
    finished = []
    with pytest.raises(RuntimeError, match="failing failed: see .*failing/log"):
        jobs.run([done, failing], 2, "test", done=lambda: finished.append(1))
    assert done.result.read_text() == "{}" and not finished
    assert "ZeroDivisionError" in (failing.folder / "log").read_text()
