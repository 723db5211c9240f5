"""The train step, compiled for a TPU pod on a machine without one.

libtpu, which holds the compiler and the descriptions of all pods, runs in a child process.

    python -m scratchpatch.planning.ahead_of_time CONFIG.json TOPOLOGY SLICES FOLDER
"""

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import jax
from absl import logging
from jax.experimental import topologies

from scratchpatch import config as config_lib, config_file, schema
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.planning.topology import Topology
from scratchpatch.training.step import Trainer

# XLA writes these files in this order.
_PROGRAM = "*jit_advance*after_optimizations.txt"
_ASSIGNMENT = "*jit_advance*after_optimizations-buffer-assignment.txt"
_REPORT = "*jit_advance*after_optimizations-memory-usage-report.txt"
# Otherwise libtpu would look for a TPU and for other processes that use one.
ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TF_CPP_MIN_LOG_LEVEL": "2",
}
MISSING = "a TPU's compiler is missing: bash launch/setup.sh tpu, or pip install libtpu"
_POLL_SECONDS, _PROGRESS_SECONDS = 0.2, 5


class Compiled(NamedTuple):
    """XLA's text of the optimised program and of its buffer assignment, and the seconds that they took."""

    program: str
    assignment: str
    seconds: float


def available() -> bool:
    return importlib.util.find_spec("libtpu") is not None


def compile_step(config, topology: Topology, full: bool = False) -> Compiled:
    """Compile the train step of a config for a pod; full: to the machine code. Raises UserError where libtpu is
    missing, the config does not fit the pod's devices, or XLA refuses the program, and says why.
    """
    if not available():
        raise UserError(f"{MISSING}; --device=h200 plans without")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="scratchpatch-plan-") as name:
        folder = Path(name)
        experiment = folder / "config.json"
        experiment.write_text(json.dumps({"schema": schema.CURRENT, "config": config_lib.flat(config)}))
        arguments = [str(experiment), topology.name, str(topology.slices), name]
        with open(folder / "log", "w+") as log:
            command = [sys.executable, "-m", __spec__.name, *arguments]
            child = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | ENVIRONMENT)
            try:
                _wait(child, folder, full, topology)
            finally:
                child.kill()
                child.wait()
            log.seek(0)
            said = log.read()
        failed = full and child.returncode not in (0, -9) and "RESOURCE_EXHAUSTED" not in said
        if failed or not _sizes(folder):
            raise UserError(complaint(said, topology))
        program, assignment = (
            next(folder.glob(pattern)).read_text(errors="replace") for pattern in (_PROGRAM, _ASSIGNMENT)
        )
        return Compiled(program, assignment, time.monotonic() - began)


def _wait(child: subprocess.Popen, folder: Path, full: bool, topology: Topology) -> None:
    """Return once the child has ended, or has written all that a plan reads."""
    began = last_progress = time.monotonic()
    while child.poll() is None:
        time.sleep(_POLL_SECONDS)
        if not full and (sizes := _sizes(folder)):
            # The files are written one after the other; once no size grows they are whole.
            time.sleep(2 * _POLL_SECONDS)
            if _sizes(folder) == sizes:
                return
        if time.monotonic() - last_progress > _PROGRESS_SECONDS:
            last_progress = time.monotonic()
            logging.info("compiling for %s: %.0f s", topology, last_progress - began)


def _sizes(folder: Path) -> list[int]:
    """The sizes of the files that XLA writes for a plan; none until all files are there."""
    files = [next(folder.glob(pattern), None) for pattern in (_PROGRAM, _ASSIGNMENT, _REPORT)]
    return [file.stat().st_size for file in files] if all(files) else []


def complaint(said: str, topology: Topology) -> str:
    """What a child that failed said last: our own error, else its exception, else its last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    ours = [line.split("UserError: ", 1)[1] for line in lines if "UserError: " in line]
    exceptions = [line for line in lines if line.split(":")[0].endswith(("Error", "Exception"))]
    return f"{topology}: " + (ours or exceptions or lines or ["the compiler ended without a word"])[-1]


def devices(name: str, slices: int) -> list:
    """The devices of so many pods, as libtpu describes them; in a child alone."""
    several = {"num_slices": slices} if slices > 1 else {}
    return topologies.get_topology_desc(platform="tpu", topology_name=name, **several).devices


def main(config_path: str, name: str, slices: str, folder: str) -> None:
    """The child: compile, and leave XLA's texts in a folder."""
    config = config_file.read(config_path)
    jax.config.update("jax_enable_compilation_cache", False)
    trainer = Trainer(config, mesh_lib.make(config, devices(name, int(slices))))
    trainer.compile({"xla_dump_to": folder, "xla_dump_hlo_as_text": True})


if __name__ == "__main__":
    main(*sys.argv[1:])
