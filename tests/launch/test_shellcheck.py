"""Every shell script of the repository passes shellcheck."""

import subprocess
import sys
from pathlib import Path

from tests.launch.stubs import ROOT


def test_shellcheck():
    scripts = [*(ROOT / "launch").glob("*.sh"), ROOT / "launch/slurm.sbatch", ROOT / "tests/run.sh", ROOT / ".ci/run"]
    assert len(scripts) >= 10
    line = [Path(sys.executable).parent / "shellcheck", "--external-sources", *scripts]
    ended = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
