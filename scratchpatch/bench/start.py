"""From the start of the process to the first finished train step, without and with compiled programs at hand."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import scratchpatch
from scratchpatch import config as config_lib
from scratchpatch.bench.results import Result, at_most
from scratchpatch.errors import UserError

_PATIENCE = 600.0
_COMPILED = re.compile(r"Finished XLA compilation of (.+?) in ([\d.]+) sec")
_PACKAGE = Path(scratchpatch.__file__).parents[1]
# Each stage ends when the child prints a line like this, in this order; what follows ends with the first metrics.
_STAGES = {
    "imports_data_weights": re.compile(r"^tier +parameters"), "audit": re.compile(r"causality audit"),
    "step_compilation": re.compile(r"memory of the compiled step"),
}


def measure(config) -> Result:
    """Seconds to the first step, cold and warm, and where they go."""
    with tempfile.TemporaryDirectory(prefix="scratchpatch-bench-") as folder:
        runs = {name: first_step(config, Path(folder), name) for name in ("cold", "warm")}
    cold, warm = (run.seconds() for run in runs.values())
    longest = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in runs["cold"].programs()[:6])
    return Result(
        "start to the first finished train step",
        {"cold": cold, "warm": warm},
        (at_most("cold seconds", cold["seconds"], 12.0), at_most("warm seconds", warm["seconds"], 5.0)),
        (
            "cold: nothing compiled, no data index; xla seconds are part of the stages above them",
            f"longest to compile: {longest}",
        ),
    )


def first_step(config, folder: Path, name: str) -> Clock:
    """Run `scratchpatch train` on one step in a child process; stop it after that, or raise UserError where it fails.
    folder: holds the run of this name, and the caches for a later call.
    """
    file, workdir = folder / f"{name}.py", folder / name
    write_config(config, file)
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"SCRATCHPATCH_CACHE": str(folder / "cache"), "JAX_LOG_COMPILES": "1", "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_PACKAGE), environment.get("PYTHONPATH")]))
    command = [sys.executable, "-m", "scratchpatch", "train", f"--config={file}", f"--workdir={workdir}"]
    clock = Clock()
    clock.run(command, environment, workdir / "metrics.jsonl")
    return clock


def write_config(config, file: Path) -> None:
    """Write a config file of one step of `config`, with its data index where the caches are."""
    # With one step, its metrics are read at once, not while the next one runs.
    flat = json.dumps(config_lib.flat(config) | {"training.steps": 1, "data.cache_dir": ""})
    file.write_text(
        "import json\n"
        "from scratchpatch import config\n"
        "def get_config():\n"
        f"    return config.from_flat(json.loads({flat!r}))\n"
    )


class Clock:
    """Notes when a child prints what, until its first metrics are on the disk."""

    def __init__(self):
        self._lines: list[tuple[float, str]] = []
        self._finished = 0.0

    def run(self, command: list[str], environment: dict[str, str], metrics: Path) -> None:
        """Start the child, wait for its first metrics, kill it."""
        began = time.monotonic()
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        child = subprocess.Popen(command, **streams, text=True, errors="replace", env=environment)

        def read() -> None:
            for line in child.stdout:
                self._lines.append((time.monotonic() - began, line.rstrip()))

        def stepped() -> bool:
            return metrics.is_file() and metrics.stat().st_size > 0

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            while not stepped():
                self._finished = time.monotonic() - began
                if self._finished > _PATIENCE:
                    raise UserError(f"`scratchpatch train` had not finished a step after {_PATIENCE:.0f} s")
                if child.poll() is not None and not stepped():
                    reader.join(timeout=10)
                    last = next((line for _, line in reversed(self._lines) if line), "it printed nothing")
                    raise UserError(f"`scratchpatch train` ended with {child.returncode} before its first step: {last}")
                time.sleep(0.01)
        finally:
            child.kill()
            child.wait()
            reader.join(timeout=10)

    def seconds(self) -> dict[str, float]:
        """In all, and of each stage; `xla_seconds` of them went to XLA, over `programs`."""
        seconds, before = {"seconds": self._finished}, 0.0
        for stage, last_line in _STAGES.items():
            end = next((t for t, line in self._lines if t >= before and last_line.search(line)), before)
            seconds[f"{stage}_seconds"], before = end - before, end
        programs = self.programs()
        return seconds | {
            "first_step_seconds": self._finished - before, "xla_seconds": sum(seconds for _, seconds in programs),
            "programs": len(programs),
        }

    def programs(self) -> list[tuple[str, float]]:
        """Name and seconds in XLA of every program up to the first step, longest first."""
        lines = [_COMPILED.search(line) for t, line in self._lines if t <= self._finished]
        return sorted(((m[1], float(m[2])) for m in lines if m), key=lambda program: -program[1])
