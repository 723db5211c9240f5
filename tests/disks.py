"""Disks that fill while a run writes, one for each writer: small file systems in memory, which take root to mount."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tests import runs
from tests.faults import PATIENCE, Failed

_ROOM = "256m"


class Small:
    """A file system of so many bytes (in whole pages), such as '16k'."""

    def __init__(self, folder: Path):
        self.folder = folder

    def grow(self) -> None:
        _mount("remount", _ROOM, self.folder)

    def full(self) -> bool:
        return os.statvfs(self.folder).f_bavail == 0


def _mount(how: str, size: str, folder: Path) -> None:
    line = ["mount", "-t", "tmpfs", "-o", ",".join(filter(None, (how, f"size={size}"))), "tmpfs", str(folder)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Failed(f"cannot mount a small file system ({done.stderr.strip()}): be root, or go through `unshare -rm`")


@contextlib.contextmanager
def small(folder: Path, size: str) -> Iterator[Small]:
    folder.mkdir(parents=True, exist_ok=True)
    _mount("", size, folder)
    try:
        yield Small(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


class Run:
    """`scratchpatch train` in a process of its own; what it says is appended to a file on a disk with room."""

    def __init__(self, folder: Path, name: str, train: list[str]):
        self.workdir, self.durable = folder / name, folder / f"{name}.durable"
        self._said = folder / f"{name}.log"
        self._line = [sys.executable, "-m", "scratchpatch", "train", f"--workdir={self.workdir}", *train]

    def start(self, *more: str) -> subprocess.Popen:
        with self._said.open("a") as said:
            return subprocess.Popen([*self._line, *more], stderr=said)

    def ends(self, *more: str) -> int:
        """The exit code of one start."""
        process = self.start(*more)
        try:
            return process.wait(PATIENCE)
        finally:
            process.kill()

    def said(self) -> str:
        return self._said.read_text() if self._said.exists() else ""

    def expect(self, code: int, wanted: int, *words: str) -> None:
        said = self.said()
        missing = [each for each in words if said.count(each) != 1]
        if code != wanted or missing or "Traceback" in said:
            raise Failed(f"ended with {code} instead of {wanted}, or did not say once: {missing}\n{said[-3000:]}")

    def resumes(self) -> None:
        if code := self.ends():
            raise Failed(f"with room it ended with {code}:\n{self.said()[-3000:]}")


def _linked(file: Path, disk: Path) -> None:
    """Let a file of the workdir lie on another disk."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.symlink_to(disk / file.name)


def _events(run: Run, step: int) -> str:
    with small(run.workdir / "tensorboard", "16k") as disk:
        run.expect(run.ends(), 0, f"cannot write {disk.folder}/events.out", "lacks what could not be written (")
        return "went on without them"


def _metrics(run: Run, step: int) -> str:
    with small(run.workdir.with_name("disk"), "16k") as disk:
        _linked(run.workdir / "metrics.jsonl", disk.folder)
        process, end = run.start(), time.monotonic() + PATIENCE
        try:
            while "cannot write" not in run.said() and process.poll() is None and time.monotonic() < end:
                time.sleep(0.01)
            disk.grow()
            code = process.wait(PATIENCE)
        finally:
            process.kill()
        run.expect(
            code,
            0,
            f"cannot write {run.workdir}/metrics.jsonl: No space left",
            "metrics.jsonl is written again: nothing is missing",
        )
        lines = (disk.folder / "metrics.jsonl").read_text()
    (run.workdir / "metrics.jsonl").unlink()
    (run.workdir / "metrics.jsonl").write_text(lines)
    return "wrote them all once there was room"


def _goodput(run: Run, step: int) -> str:
    with small(run.workdir.with_name("disk"), "4k") as disk:
        _linked(run.workdir / "goodput.jsonl", disk.folder)
        (disk.folder / "ballast").write_bytes(b"0")
        run.expect(run.ends(), 0, f"cannot write {run.workdir}/goodput.jsonl: No space left", "goodput.jsonl lacks")
        return "went on without an account"


def _checkpoints(run: Run, step: int) -> str:
    with small(run.workdir / "checkpoints", str(5 * step // 2)) as disk:
        run.expect(run.ends(), 1, f"cannot write checkpoints into {disk.folder}: ")
        before, resumed = runs.stored_steps(run.workdir), run.said().count("resumed at step")
        disk.grow()
        run.resumes()
        if run.said().count("resumed at step") != resumed + 1:
            raise Failed("it did not resume")
        # They must outlive the disk.
        return _kept(run, f"stopped in a line with steps {before}, and resumed")


def _mirror(run: Run, step: int) -> str:
    with small(run.durable, str(step // 2)):
        run.expect(
            run.ends(f"--config.training.durable_dir={run.durable}"),
            0,
            "the run goes on, and tries again",
            "does not have the last steps: ",
        )
    return "went on without copies"


def _report(run: Run, step: int) -> str:
    """All but the checkpoints."""
    with small(run.workdir, "100k") as disk, small(run.workdir / "checkpoints", _ROOM):
        code = run.ends()
        run.expect(code, 0, "the run is finished, and `scratchpatch report")
        disk.grow()
        line = [sys.executable, "-m", "scratchpatch", "report", f"--workdir={run.workdir}"]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode or not (run.workdir / "report.html").exists():
            raise Failed(f"no report once there was room: {done.stderr}")
        return _kept(run, f"finished without it, and {len(runs.lines(run.workdir))} lines of metrics")


def _all(run: Run, step: int) -> str:
    with small(run.workdir, str(7 * step // 2)) as disk:
        run.expect(run.ends(), 1, f"cannot write checkpoints into {disk.folder}/checkpoints: ")
        before = runs.stored_steps(run.workdir)
        disk.grow()
        run.resumes()
        return _kept(run, f"stopped in a line with steps {before}, and resumed")


def _start(run: Run, step: int) -> str:
    with small(run.workdir, "8k") as disk:
        (disk.folder / "ballast").write_bytes(bytes(8192))
        if not disk.full():
            raise Failed("the disk is not full")
        run.expect(run.ends(), 1, "No space left on device")
        said = run.said().strip().splitlines()[-1]
        (disk.folder / "ballast").unlink()
        disk.grow()
        run.resumes()
        return _kept(run, f"refused ({said.removeprefix('scratchpatch: ')}), and then trained")


def _kept(run: Run, came: str) -> str:
    """Copy what lies on the small disks to the disk below them, to be compared."""
    aside = run.workdir.with_name(f"{run.workdir.name}.kept")
    subprocess.run(["cp", "-r", str(run.workdir), str(aside)], check=True)
    run.workdir = aside
    return came


# Writer to what is done; those whose metrics are compared, too.
KINDS = {
    "events": _events,
    "metrics": _metrics,
    "goodput": _goodput,
    "checkpoints": _checkpoints,
    "durable copies": _mirror,
    "report": _report,
    "everything": _all,
    "everything from the start": _start,
}
LOSES_METRICS = {"report"}
