"""The commands of launch/README.md are commands of the launchers."""

import os
import re
import subprocess

from tests.launch.stubs import ROOT, Stubs

LAUNCHERS = ("tpu_vm.sh", "gke.sh")


def test_the_commands_are_as_the_launchers_take_them(tmp_path):
    """In dry runs: each array of a launcher's flags gets --dry_run."""
    stubs = Stubs(tmp_path)
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "launch" / "README.md").read_text(), re.DOTALL)
    ours = re.compile(rf"(\w+\+?=|until |)(.*launch/({'|'.join(LAUNCHERS)})|\(|experiments|--workdir)")
    lines = [line for block in blocks for line in block.splitlines() if ours.match(line)]
    assert (
        sum("launch/tpu_vm.sh" in line for line in lines) == 5 and sum("launch/gke.sh" in line for line in lines) == 4
    )
    text = re.sub(r"^(pod|job)=\(", r"\1=(--dry_run ", "\n".join(lines), flags=re.MULTILINE)
    ended = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", text],
        cwd=ROOT,
        env=os.environ | stubs.env(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0 and ended.stderr == "" and stubs.calls == []
    for wanted in (
        "queued-resources create sp1b",
        "tpu_worker.sh run 0 10.0.0.2:/share",
        "kind: JobSet",
        "get jobset sp1b",
    ):
        assert wanted in ended.stdout
    assert "--config=experiments/scale/sp_1b.py --workdir=/mnt/scratchpatch/sp1b --config.mesh.fsdp=16" in ended.stdout
