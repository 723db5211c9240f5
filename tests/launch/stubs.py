"""Commands of a cloud, on PATH in a folder of their own: they record how they are called, and fail on request."""

import os
import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]

# gcloud. Files in $STUBS: `states`, one a line, of which each look takes the first unless it is the last (NONE: no such
# resource); `created`: the states after a creation; `preempted`: nodes that are; `unreachable`: a node that is
# preempted when a run is asked of it; `breaks`: what comes before every connection is lost. ssh and scp go to a folder
# of each node and worker, the worker's home, with the exit codes and words of the real one.
_GCLOUD = r"""
echo "gcloud $*" >>"$STUBS/calls"
case "$*" in
*"queued-resources describe"*)
    state="$(head -n 1 "$STUBS/states")"
    [[ "$(wc -l <"$STUBS/states")" == 1 ]] || sed -i 1d "$STUBS/states"
    [[ "$state" != NONE ]] || { echo "ERROR: NOT_FOUND: Resource was not found" >&2; exit 1; }
    [[ "$state" != DENIED ]] || { echo "ERROR: permission denied" >&2; exit 1; }
    echo "$state" ;;
*"tpu-vm list"*) [[ ! -f "$STUBS/preempted" ]] || cat "$STUBS/preempted" ;;
*"queued-resources create"*) [[ ! -f "$STUBS/created" ]] || cp "$STUBS/created" "$STUBS/states" ;;
*"queued-resources delete"*) echo NONE >"$STUBS/states"; rm -f "$STUBS/preempted" ;;
*"tpu-vm scp"*)
    node="${6%%:*}"
    for ((w = 0; w < WORKERS; w++)); do cp "$5" "$STUBS/$node/$w/${6#*:}"; done ;;
*"tpu-vm ssh"*)
    node="$5"; command=""
    for a in "$@"; do [[ "$a" != --command=* ]] || command="${a#*=}"; done
    if [[ -f "$STUBS/unreachable" && "$(cat "$STUBS/unreachable")" == "$node" && "$command" == *" run "* ]]; then
        echo SUSPENDED >"$STUBS/states"; exit 255
    fi
    [[ ! -f "$STUBS/breaks" ]] || { cat "$STUBS/breaks"; exit 255; }
    pids=(); code=0
    for ((w = 0; w < WORKERS; w++)); do
        (cd "$STUBS/$node/$w" && HOME="$PWD" WORKER="$w" bash -c "$command") & pids+=($!)
    done
    for w in "${!pids[@]}"; do
        wait "${pids[w]}" || {
            s=$?
            echo "##### Command execution on worker $w failed with exit status $s. Continuing." >&2
            ((code)) || code=$s
        }
    done
    exit "$code" ;;
esac
"""

# A worker's .venv/bin/python: answers launch/setup.sh, and trains as the file `train` in the worker's home says.
_PYTHON = r"""
case "$*" in
--version) echo "Python 3.12.0" ;;
"-m scratchpatch "*)
    printf '%s\n' "$@" >>"$HOME/trained${SLURM_PROCID:+.$SLURM_PROCID}"
    [[ ! -f "$HOME/train" ]] || exec bash "$HOME/train"
    echo "training from random weights" ;;
esac
"""

# kubectl: `pods` is what `get pods` prints; `refuses`: a verb that fails.
_KUBECTL = r"""
echo "kubectl $*" >>"$STUBS/calls"
[[ ! -f "$STUBS/refuses" || " $* " != *" $(cat "$STUBS/refuses") "* ]] || { echo "error: AlreadyExists" >&2; exit 1; }
case "$*" in
*" create "*) cat >"$STUBS/manifest" ;;
*" get pods "*) cat "$STUBS/pods" ;;
*" logs "*) echo "the last words of $3" ;;
esac
"""

# sbatch: takes its own flags and runs a copy of the script, as slurmd does.
_SBATCH = r"""
echo "sbatch $*" >>"$STUBS/calls"
while [[ "$1" == --* ]]; do shift; done
cp "$1" "$STUBS/spooled"; shift
export SLURM_JOB_ID=77 SLURM_JOB_NUM_NODES=2 SLURM_GPUS_ON_NODE=2 SLURM_CPUS_ON_NODE=16 SLURM_SUBMIT_DIR="$PWD"
exec bash "$STUBS/spooled" "$@"
"""

# srun: every task at once; the highest exit code.
_SRUN = r"""
echo "srun JAX_LOCAL_DEVICE_IDS=${JAX_LOCAL_DEVICE_IDS:-} $*" >>"$STUBS/calls"
pids=(); highest=0
while [[ "$1" == --* ]]; do
    case "$1" in --ntasks=*) tasks="${1#*=}" ;; --output=*) output="${1#*=}" ;; esac
    shift
done
for ((t = 0; t < tasks; t++)); do SLURM_PROCID="$t" "$@" >>"${output/\%t/$t}" 2>&1 & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || { s=$?; ((s > highest)) && highest=$s; }; done
exit "$highest"
"""

# sudo, of a TPU VM: `no_mount` in a worker's home lets its mounting fail.
_SUDO = r"""
echo "sudo $*" >>"$STUBS/calls.root"
[[ "$*" != mount* || ! -f "$HOME/no_mount" ]] || { echo "mount.nfs: access denied" >&2; exit 32; }
"""

_COMMANDS = {
    "gcloud": _GCLOUD,
    "kubectl": _KUBECTL,
    "sbatch": _SBATCH,
    "srun": _SRUN,
    "scontrol": 'echo "scontrol $*" >>"$STUBS/calls"',
    # Of a TPU VM: the metadata server, and what its packages bring.
    "curl": 'echo "$WORKER"',
    "sudo": _SUDO,
    "mountpoint": "exit 1",
    "mount.nfs": "",
    "python3": "",
}


class Stubs:
    """The folder of a test's stub commands and of what they recorded."""

    def __init__(self, folder: Path, workers: int = 2):
        self.folder, self.workers = folder, workers
        for name, text in _COMMANDS.items():
            self.command(folder / "bin" / name, text)
        self.write("states", "ACTIVE")

    @staticmethod
    def command(path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}")
        path.chmod(0o755)

    def write(self, name: str, *lines: str) -> None:
        (self.folder / name).write_text("".join(f"{line}\n" for line in lines))

    def node(self, name: str) -> list[Path]:
        """The homes of a node's workers, which have the launchers and a Python that trains."""
        homes = [self.folder / name / str(w) for w in range(self.workers)]
        for home in homes:
            root = home / "scratchpatch"
            shutil.copytree(ROOT / "launch", root / "launch")
            for file in ("pyproject.toml", "constraints.txt"):
                shutil.copy(ROOT / file, root)
            self.command(root / ".venv" / "bin" / "python", _PYTHON)
        return homes

    def checkout(self) -> Path:
        """A folder with what launch/slurm.sbatch needs of the repository."""
        root = self.folder / "repository"
        shutil.copytree(ROOT / "launch", root / "launch")
        self.command(root / ".venv" / "bin" / "python", _PYTHON)
        return root

    def run(self, script: str, *arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
        """`bash launch/SCRIPT ARGUMENTS`, or a command's name."""
        path = self.folder / "bin" / script
        line = [path] if path.exists() else ["bash", cwd / "launch" / script]
        env = os.environ | self.env()
        return subprocess.run(
            [*line, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=60, check=False
        )

    def env(self) -> dict[str, str]:
        path = f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        return {"PATH": path, "STUBS": str(self.folder), "WORKERS": str(self.workers), "HOME": str(self.folder)}

    @property
    def calls(self) -> list[str]:
        path = self.folder / "calls"
        return path.read_text().splitlines() if path.exists() else []
