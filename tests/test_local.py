"""launch/local.sh: what it would run, and what it says to wrong usage."""

import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "launch" / "local.sh"


def local(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, check=False)


def test_a_dry_run_prints_every_process():
    found = local("--processes=2", "--devices_per_process=3", "--dry_run", "--", "--config=a b.py", "--workdir=runs/x")
    assert found.returncode == 0, found.stderr
    first, second = found.stdout.splitlines()
    for i, line in enumerate((first, second)):
        assert line.startswith("env JAX_PLATFORMS=cpu JAX_NUM_CPU_DEVICES=3 ")
        assert rf"-m scratchpatch train --config=a\ b.py --workdir=runs/x --distributed=127.0.0.1:PORT\,{i}\,2" in line
    assert second.endswith(">> runs/x.process-1.log 2>&1")


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["--processes=0", "--", "--workdir=x"], "--processes=0: wanted a number above 0"),
        (["--processes=2", "--devices_per_process=many", "--", "--workdir=x"], "--devices_per_process=many"),
        (["--processes=2"], "no flags for scratchpatch train after --"),
        (["--processes=2", "--", "--config=x"], "--workdir=DIR is missing"),
        (["--process=2"], "unknown flag --process=2"),
    ],
)
def test_wrong_usage_is_told_with_an_example(arguments, said):
    found = local(*arguments)
    assert found.returncode == 2
    assert said in found.stderr and "launch/local.sh --processes=N" in found.stderr
