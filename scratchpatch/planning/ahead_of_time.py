"""The train step, compiled for a TPU pod on a machine without one.

libtpu holds the compiler and the descriptions of all pods. It runs in a child
process, which is ended as soon as XLA has written the program and its memory
report: generating machine code takes most of a compilation and tells a plan
nothing.

    python -m scratchpatch.planning.ahead_of_time CONFIG.json TOPOLOGY SLICES FOLDER
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict

from scratchpatch import config as config_lib
from scratchpatch import json_files, schema
from scratchpatch.errors import UserError
from scratchpatch.planning.topology import Topology

_REPORT, _PROGRAM = "*jit__advance*after_optimizations-memory-usage-report.txt", "*jit__advance*after_optimizations.txt"
_ASSIGNMENT = "*jit__advance*after_optimizations-buffer-assignment.txt"
# libtpu would look for a TPU and for other processes that use one.
_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
_POLL = 0.2


class _Placed(TypedDict):
    """What the child says of the mesh before it compiles."""

    mesh: dict[str, json_files.Count]
    parts: json_files.Count


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What XLA wrote. mesh: axis to size; parts: that a step's rows are computed in; seconds: it took."""

    program: str
    assignment: str
    mesh: dict[str, int]
    parts: int
    seconds: float


def available() -> bool:
    return importlib.util.find_spec("libtpu") is not None


def compile_step(config, topology: Topology, whole: bool = False, progress: Callable[[str], None] = lambda _: None) -> Compiled:
    """Compile the train step of a config for a pod.

    Args:
      config: the experiment, with its mesh.
      topology: the pod.
      whole: go on to the machine code, which finds what only the code generator refuses.
      progress: called with a line now and then.
    Raises:
      UserError: libtpu is missing, the config does not fit the pod's devices,
        or XLA refuses the program; with its words.
    """
    if not available():
        raise UserError("a TPU's compiler is missing: bash launch/setup.sh tpu, or pip install libtpu; --device=h200 plans without")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="scratchpatch-plan-") as folder:
        path = Path(folder)
        (path / "config.json").write_text(json.dumps({"schema": schema.CURRENT, "config": config_lib.flat(config)}))
        command = [sys.executable, "-m", __spec__.name, str(path / "config.json"), topology.name, str(topology.slices), folder]
        with open(path / "log", "w+") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | _ENVIRONMENT)
            try:
                _wait(child, path, whole, lambda: progress(f"compiling for {topology}: {time.monotonic() - began:.0f} s"))
            finally:
                child.kill()
                child.wait()
            log.seek(0)
            words = log.read()
        if not _sizes(path):
            raise UserError(_complaint(words, topology))
        if whole and child.returncode not in (0, -9) and "RESOURCE_EXHAUSTED" not in words:
            raise UserError(_complaint(words, topology))
        placed = json_files.read(path / "placed.json", _Placed)
        read = lambda pattern: next(path.glob(pattern)).read_text(errors="replace")  # noqa: E731
        return Compiled(read(_PROGRAM), read(_ASSIGNMENT), placed["mesh"], placed["parts"], time.monotonic() - began)


def _wait(child: subprocess.Popen, path: Path, whole: bool, tell: Callable[[], None]) -> None:
    """Until the child has ended, or has written all that a plan reads."""
    told = time.monotonic()
    while child.poll() is None:
        time.sleep(_POLL)
        if not whole and (sizes := _sizes(path)):
            # Written one after the other; once no size grows they are whole.
            time.sleep(2 * _POLL)
            if _sizes(path) == sizes:
                return
        if time.monotonic() - told > 5:
            told = time.monotonic()
            tell()


def _sizes(path: Path) -> list[int]:
    """Of the files that a plan reads; empty until all are there."""
    files = [next(path.glob(pattern), None) for pattern in (_PROGRAM, _ASSIGNMENT, _REPORT)]
    return [file.stat().st_size for file in files] if all(files) else []


def _complaint(words: str, topology: Topology) -> str:
    """What a child that failed said last."""
    lines = [line.strip() for line in words.splitlines() if line.strip()]
    ours = [line.split("UserError: ", 1)[1] for line in lines if "UserError: " in line]
    theirs = [line for line in lines if line.split(":")[0].endswith(("Error", "Exception"))]
    return f"{topology}: " + (ours or theirs or lines or ["the compiler ended without a word"])[-1]


def main(argv: list[str]) -> int:
    """The child: compile, and leave XLA's texts in a folder."""
    config_path, name, slices, folder = argv
    import jax
    from jax.experimental import topologies

    from scratchpatch.distributed import mesh as mesh_lib
    from scratchpatch.training.step import Trainer

    config = config_lib.read(config_path)
    several = {"num_slices": int(slices)} if int(slices) > 1 else {}
    described = topologies.get_topology_desc(platform="tpu", topology_name=name, **several)
    mesh = mesh_lib.make(config, described.devices)
    placed = {"mesh": dict(mesh.shape), "parts": mesh_lib.parts(config, mesh)}
    (Path(folder) / "placed.json").write_text(json.dumps(placed))
    jax.config.update("jax_enable_compilation_cache", False)
    Trainer(config, mesh).compile({"xla_dump_to": folder, "xla_dump_hlo_as_text": True})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
