"""Starts untrusted programs, and judges them by a secret that only their end can give."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import json
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from scratchpatch.errors import UserError
from scratchpatch.output import one_line

_FOLDER = Path(__file__).parent
# What the launcher has left to end a program by itself, in seconds.
_GRACE_SECONDS = 5.0
_CHUNK_BYTES = 1 << 16
# Reports of the launcher are a line or two.
_MOST_REPORT_BYTES = 4096


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one program may use. Memory and CPU time are of each of its processes.

    Attributes:
      seconds: wall-clock time of the whole program.
      cpu_seconds: of one process.
      memory_bytes: address space of one process.
      processes: and threads, at one time.
      file_bytes: of one file.
      scratch_bytes: of all files of its folder, which is in memory.
      descriptors: that one process can open.
      output_bytes: that are read of what it prints; what it prints beyond is dropped.
    """

    seconds: float = 15.0
    cpu_seconds: int = 5
    memory_bytes: int = 1 << 29
    processes: int = 8
    file_bytes: int = 1 << 23
    scratch_bytes: int = 1 << 25
    descriptors: int = 32
    output_bytes: int = 1 << 14


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a program ended.

    Attributes:
      passed: it ran to its end.
      reason: '' where it passed; else, in a few words, why it did not.
      output: the beginning of what it printed.
      seconds: wall-clock time, its start included.
    """

    passed: bool
    reason: str
    output: bytes
    seconds: float


class _Refused(Exception):
    """The launcher could not shut itself in."""


def check(namespaces: bool = True) -> None:
    """Raises UserError where this machine cannot run programs, or cannot shut them in."""
    if sys.platform != "linux":
        raise UserError(f"programs are run on Linux alone, and this is {sys.platform}: leave the task code out")
    if namespaces and (refusal := _refusal()):
        raise UserError(
            f"programs cannot be shut in on this machine ({one_line(refusal, 200)}): run this where user namespaces "
            "are allowed, or add --unsafe_execution, with which only limits of time and memory hold"
        )


def run(program: bytes, limits: Limits = Limits(), namespaces: bool = True) -> Outcome:
    """Run a Python program, with the standard library alone, and wait for its end.

    It runs as the module `program` (so that `__name__ == "__main__"` is false), with empty standard input, an empty
    environment, hashes of the seed 0, and an empty folder as its current one, which is gone afterwards. It passed where
    its last statement was executed: an uncaught exception, an exit of any code and a crash do not pass.

    namespaces: False: without own namespaces, where only rlimits hold; a program can then read and write what this
      user can, and kill this user's processes.
    Raises UserError as `check` does, and where the program could not be started.
    """
    check(namespaces)
    try:
        if namespaces:
            return _run(program, limits, None)
        with tempfile.TemporaryDirectory(prefix="scratchpatch-", ignore_cleanup_errors=True) as folder:
            return _run(program, limits, folder)
    except _Refused as error:
        raise UserError(f"a program could not be started ({one_line(error, 200)}): try again") from None


def run_all(programs: Sequence[bytes], limits: Limits = Limits(), namespaces: bool = True) -> list[Outcome]:
    """The outcomes of programs, as many side by side as this process has cores. Raises UserError as `run` does."""
    check(namespaces)
    workers = min(len(os.sched_getaffinity(0)), max(len(programs), 1))
    with concurrent.futures.ThreadPoolExecutor(workers, "sandbox") as pool:
        return list(pool.map(lambda program: run(program, limits, namespaces), programs))


@functools.cache
def _refusal() -> str:
    """Why programs cannot be shut in; '' where they can."""
    try:
        outcome = _run(b"", Limits(), None)
    except _Refused as error:
        return str(error)
    return "" if outcome.passed else f"an empty program did not run: {outcome.reason}"


def _run(program: bytes, limits: Limits, folder: str | None) -> Outcome:
    """folder: the scratch folder of a program without namespaces; None: with them."""
    token, began = secrets.token_hex(16), time.monotonic()
    # The interpreter of a virtual environment is a link to the one that has the standard library, or a copy of it.
    python = os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)
    verdict, verdict_end = os.pipe()
    try:
        order = dataclasses.asdict(limits) | {
            "namespaces": folder is None,
            "python": python,
            "visible": [sys.base_prefix, sys.base_exec_prefix, python],
            "inside": (_FOLDER / "inside.py").read_text(encoding="utf-8"),
            "token": token,
            "verdict": verdict_end,
            "parent": os.getpid(),
        }
        process = subprocess.Popen(
            [python, "-IS", "-B", str(_FOLDER / "launch.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=(verdict_end,),
            cwd=folder or "/",
            env={},
            start_new_session=True,
        )
    except OSError as error:
        os.close(verdict)
        raise _Refused(f"{python}: {error.strerror}") from None
    finally:
        os.close(verdict_end)
    try:
        try:
            with process.stdin as stdin:
                stdin.write(json.dumps(order).encode() + b"\n" + program)
        except OSError:
            pass  # The launcher has ended; its report says why.
        output, report, proof = _listen(process, verdict, limits)
    finally:
        os.close(verdict)
        for stream in (process.stdout, process.stderr):
            stream.close()
    passed = token.encode() in proof
    lines = dict(line.partition(" ")[::2] for line in report.decode(errors="replace").splitlines())
    if "error" in lines and not passed:
        raise _Refused(lines["error"])
    reason = "" if passed else _reason(lines, output, limits)
    return Outcome(passed, reason, output, time.monotonic() - began)


def _listen(process: subprocess.Popen, verdict: int, limits: Limits) -> tuple[bytes, bytes, bytes]:
    """What a program printed, what the launcher reports, and what came as proof, when all has ended."""
    deadline = time.monotonic() + limits.seconds + _GRACE_SECONDS
    most = {process.stdout.fileno(): limits.output_bytes, process.stderr.fileno(): _MOST_REPORT_BYTES, verdict: 4096}
    read = dict.fromkeys(most, b"")
    try:
        with selectors.DefaultSelector() as selector, open(os.pidfd_open(process.pid), "rb", 0) as ended:
            for descriptor in (*most, ended.fileno()):
                selector.register(descriptor, selectors.EVENT_READ)
            running = True
            while running and time.monotonic() < deadline:
                ready = [key.fd for key, _ in selector.select(max(deadline - time.monotonic(), 0))]
                running = ended.fileno() not in ready
                for descriptor in ready:
                    if descriptor != ended.fileno() and not _read(descriptor, read, most):
                        selector.unregister(descriptor)
    except OSError as error:
        raise _Refused(f"waiting for a program: {error.strerror}") from None
    finally:
        try:
            # Nothing else has this number: the process was not waited for.
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
    for descriptor in most:
        os.set_blocking(descriptor, False)
        try:
            # A program without namespaces may have left someone who prints for ever.
            for _ in range(64):
                if not _read(descriptor, read, most):
                    break
        except BlockingIOError:
            pass
    return tuple(read.values())


def _read(descriptor: int, read: dict[int, bytes], most: dict[int, int]) -> int:
    """Read once, keep what fits, and return how much there was."""
    chunk = os.read(descriptor, _CHUNK_BYTES)
    read[descriptor] += chunk[: most[descriptor] - len(read[descriptor])]
    return len(chunk)


def _reason(lines: dict[str, str], output: bytes, limits: Limits) -> str:
    if "time" in lines:
        return f"it ran for more than {limits.seconds:g} seconds"
    status = lines.get("status", "")
    if status == "1":
        last = output.decode(errors="replace").rstrip().rpartition("\n")[2]
        return one_line(last, 200) or "exit code 1"
    if status.startswith("-"):
        try:
            return f"killed by {signal.Signals(-int(status)).name}"
        except ValueError:
            return f"killed by signal {status[1:]}"
    return f"it ended early, with exit code {status}" if status else "it was killed"
