"""What can go wrong with a run of several processes, done to one on purpose."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

SUPERVISE = Path(__file__).parents[1] / "launch" / "supervise"
# Seconds within which whatever was done must show.
PATIENCE = 180


class Failed(Exception):
    """The run did not do what it must."""


class Supervised:
    """A run under launch/supervise, from outside.

    Args:
      folder: the run's workdir and logs go there, and `name` tells them apart.
      train: flags of `scratchpatch train` but --workdir.
      flags: of launch/supervise.
    """

    def __init__(self, folder: Path, name: str, processes: int, train: list[str], flags: list[str]):
        self.workdir, self.durable = folder / name, folder / f"{name}.durable"
        self.processes = processes
        self._said = folder / f"{name}.supervisor.log"
        train = [*train, f"--workdir={self.workdir}", f"--config.training.durable_dir={self.durable}"]
        self.command = [
            sys.executable,
            str(SUPERVISE),
            f"--processes={processes}",
            "--devices_per_process=1",
            *flags,
            "--",
            *train,
        ]
        self.start()

    def start(self) -> None:
        """A supervisor; another one once the one before is gone."""
        with self._said.open("a") as said:
            self._supervisor = subprocess.Popen(self.command, stderr=said)

    def wait(self) -> None:
        """Until it ends well."""
        code = self._supervisor.wait()
        if code:
            raise Failed(f"the supervisor ended with {code}:\n{self.said()}\nprocess 0:\n{self.log(0)[-2000:]}")

    def kill(self) -> None:
        """Its supervisor, if it still runs; the processes then leave by themselves."""
        self._supervisor.kill()
        self._supervisor.wait()

    def terminate(self) -> int:
        """Tell the supervisor of a preemption; its exit code."""
        self._supervisor.terminate()
        return self._supervisor.wait(PATIENCE)

    def said(self) -> str:
        """What the supervisor said."""
        return self._said.read_text()

    def deaths(self) -> int:
        return self.said().count("; its last lines:")

    def log(self, process: int) -> str:
        """What a process said, in all attempts."""
        path = self.workdir.with_name(f"{self.workdir.name}.process-{process}.log")
        return path.read_text() if path.exists() else ""

    def starts(self) -> int:
        """How many attempts got as far as training."""
        return sum(self.log(0).count(f"\n{words}") for words in ("resumed at step", "training from"))

    def until(self, what: str, happened) -> None:
        """Wait until `happened()`, and no longer than it can take."""
        end = time.monotonic() + PATIENCE
        while not happened():
            if self._supervisor.poll() is not None:
                raise Failed(f"the run ended before {what}:\n{self.said()}")
            if time.monotonic() > end:
                raise Failed(f"waited {PATIENCE} s for {what}:\n{self.said()}")
            time.sleep(0.02)

    def step(self) -> int:
        """The last step whose metrics are written."""
        path = self.workdir / "metrics.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        return max((json.loads(line)["step"] for line in lines), default=0)

    def newest(self, folder: Path | None = None) -> Path | None:
        """The newest stored step."""
        steps = [p for p in (folder or self.workdir / "checkpoints").glob("*") if p.name.isdecimal()]
        return max(steps, key=lambda p: int(p.name), default=None)

    def pid(self, process: int) -> int:
        """Of a process that runs."""
        own = f"{self._supervisor.pid}"
        for pid in Path(f"/proc/{own}/task/{own}/children").read_text().split():
            command = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")
            if command.endswith(f",{process},{self.processes}".encode()):
                return int(pid)
        raise Failed(f"process {process} does not run")


def strike(run: Supervised, kind: str, rng: random.Random) -> str:
    """Do `kind` to a run at work, wait until its supervisor has noticed, and say what came of it."""
    return KINDS[kind](run, rng)


def _end(run: Supervised, process: int, sent: int, words: str) -> str:
    """Send a signal to a process; the supervisor's words about the death, which must name it."""
    before = run.deaths()
    os.kill(run.pid(process), sent)
    run.until("the supervisor noticed", lambda: run.deaths() > before)
    said = [line for line in run.said().splitlines() if line.endswith("; its last lines:")][before]
    if f"process {process} {words}" not in said:
        raise Failed(f"process {process} {words}, but the supervisor says: {said}")
    return said.removeprefix("supervise: ").removesuffix("; its last lines:")


def _kill_worker(run, rng):
    return _end(run, rng.randrange(1, run.processes), signal.SIGKILL, "was ended by SIGKILL")


def _kill_coordinator(run, rng):
    return _end(run, 0, signal.SIGKILL, "was ended by SIGKILL")


def _stop(run, rng):
    return _end(run, rng.randrange(run.processes), signal.SIGSTOP, "stopped answering")


def _full_disk(run, rng):
    """No file of one process may grow beyond what its small files have: the next save fails."""
    process = rng.randrange(run.processes)
    before, pid = run.deaths(), run.pid(process)
    small = [run.workdir / "metrics.jsonl", *run.workdir.glob("tensorboard/*"), *run.workdir.parent.glob("*.log")]
    limit = 2 * max(path.stat().st_size for path in small) + 50_000
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    run.until("the save failed", lambda: run.deaths() > before)
    said = run.log(process)
    if "cannot write checkpoints into" not in said or "File too large" not in said:
        raise Failed(f"process {process} did not say that it cannot write:\n{said[-2000:]}")
    return f"process {process} could write no file beyond {limit} bytes, said so and ended"


def _largest(step: Path) -> Path:
    return max((p for p in (step / "state").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)


def _flipped(step: Path, rng) -> str:
    path = _largest(step)
    data = bytearray(path.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return "a bit flipped"


def _truncated(step: Path, rng) -> str:
    path = _largest(step)
    os.truncate(path, rng.randrange(path.stat().st_size))
    return "a file truncated"


def _unmarked(step: Path, rng) -> str:
    path = rng.choice([step / "about.json", step / "state" / "commit_success.txt"])
    path.unlink()
    return f"{path.name} deleted"


def _damage(how):
    """A kill, and damage to the newest step before the next attempt reads it."""

    def strike(run, rng):
        starts = run.starts()
        said = _end(run, rng.randrange(run.processes), signal.SIGKILL, "was ended by SIGKILL")
        # Until the restart nothing is written.
        step = run.newest()
        done = how(step, rng)
        run.until("the restart", lambda: run.starts() > starts)
        if f"step {step.name} (" not in run.log(0) or not (step.parent / f"{step.name}.damaged").exists():
            raise Failed(f"damage to {step} was not found:\n{run.log(0)[-2000:]}")
        return f"{said}; step {step.name} with {done}"

    return strike


def _both_tiers(run, rng):
    """The newest step is damaged in the workdir and in the durable tier: an older one of either is the next best."""
    starts = run.starts()
    said = _end(run, rng.randrange(run.processes), signal.SIGKILL, "was ended by SIGKILL")
    step, copy = run.newest(), run.newest(run.durable)
    done = [_flipped(step, rng), _truncated(copy, rng)]
    run.until("the restart", lambda: run.starts() > starts)
    # A copy as old as what the workdir falls back on is not asked for.
    if copy.name == step.name and f"durable step {copy} is damaged" not in run.log(0):
        raise Failed(f"damage to {copy} was not found:\n{run.log(0)[-2000:]}")
    return f"{said}; step {step.name} with {done[0]}, durable step {copy.name} with {done[1]}"


def _lost_disk(run, rng):
    """A kill, and all checkpoints of the workdir are gone: the durable tier has them."""
    starts = run.starts()
    said = _end(run, rng.randrange(run.processes), signal.SIGKILL, "was ended by SIGKILL")
    shutil.rmtree(run.workdir / "checkpoints")
    run.until("the restart", lambda: run.starts() > starts)
    if "comes from" not in run.log(0):
        raise Failed(f"nothing came from the durable tier:\n{run.log(0)[-2000:]}")
    return f"{said}; all checkpoints of the workdir deleted"


def _preempt(run, rng):
    """SIGTERM to the supervisor, which saves and leaves; later another one goes on."""
    starts, began = run.starts(), time.monotonic()
    code = run.terminate()
    took = time.monotonic() - began
    if code or "stopped by SIGTERM at step" not in run.log(0):
        raise Failed(f"after SIGTERM the supervisor ended with {code}:\n{run.said()}\n{run.log(0)[-2000:]}")
    run.start()
    run.until("the restart", lambda: run.starts() > starts)
    return f"saved and gone after {took:.1f} s"


def _kill_supervisor(run, rng):
    """Its processes save and leave, and another supervisor, started at once, goes on when they have."""
    starts = run.starts()
    run.kill()
    run.start()
    run.until("the restart", lambda: run.starts() > starts)
    if run.log(0).count("stopped by SIGTERM at step") == 0:
        raise Failed(f"the processes of the killed supervisor did not leave:\n{run.log(0)[-2000:]}")
    return "its processes saved and left"


def _refused(command: list[str], words: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode == 0 or words not in done.stderr:
        raise Failed(f"not refused, but ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stderr.strip().splitlines()[-1].removeprefix("supervise: ").removeprefix("scratchpatch: ")


def _second_supervisor(run, rng):
    return _refused(run.command, "in use by another supervisor")


def _second_trainer(run, rng):
    train = run.command[run.command.index("--") + 1 :]
    return _refused([sys.executable, "-m", "scratchpatch", "train", *train], "in use by another trainer")


KINDS = {
    "kill a worker": _kill_worker,
    "kill the coordinator": _kill_coordinator,
    "stop a process": _stop,
    "full disk": _full_disk,
    "flip": _damage(_flipped),
    "truncate": _damage(_truncated),
    "delete a marker": _damage(_unmarked),
    "damage both tiers": _both_tiers,
    "lose the disk": _lost_disk,
    "preempt": _preempt,
    "kill the supervisor": _kill_supervisor,
    "second supervisor": _second_supervisor,
    "second trainer": _second_trainer,
}
REFUSALS = {"second supervisor", "second trainer"}
