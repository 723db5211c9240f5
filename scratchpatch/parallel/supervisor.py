"""The processes of one machine as one: started together, stopped together, started anew from the last checkpoint.

A killed worker leaves the others waiting in a collective, and a killed
coordinator aborts them, so nothing less than all of them is restarted. A
process that stops answering is noticed by the others' heartbeat (see
`processes`), which ends them; here it is then killed.

Free of JAX: the supervisor holds no device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

_POLL_SECONDS = 0.1
_LONGEST_PAUSE = 60.0
_LAST_LINES = 5


@dataclasses.dataclass(frozen=True)
class Death:
    """The first process of an attempt to end badly.

    process: which one. code: its exit code, negative where a signal ended it.
    seconds: after the attempt's start. said: the last lines of its log.
    """

    process: int
    code: int
    seconds: float
    said: str

    def __str__(self) -> str:
        why = f"was ended by {signal.Signals(-self.code).name}" if self.code < 0 else f"ended with {self.code}"
        return f"process {self.process} {why} after {self.seconds:.0f} s; its last lines:\n{self.said}"


class Supervisor:
    """Runs attempts until one ends well, or the budget of restarts is used up.

    Args:
      commands: called before each attempt; the command line of each process.
      logs: a file per process, appended to.
      restarts: attempts after the first that may fail in a row without progress.
      progress: a number that grows when an attempt achieved something, such as
        the newest checkpoint; the budget is then full again.
      pause: seconds before the first restart; doubled by each, up to a minute.
      patience: seconds that processes get to save and leave after SIGTERM.
      env: of the processes; None: this one's.
    """

    def __init__(
        self,
        commands: Callable[[], Sequence[Sequence[str]]],
        logs: Sequence[Path],
        restarts: int,
        progress: Callable[[], int] = lambda: 0,
        pause: float = 1.0,
        patience: float = 120.0,
        env: dict[str, str] | None = None,
    ):
        self._commands, self._logs, self._restarts = commands, logs, restarts
        self._progress, self._pause, self._patience, self._env = progress, pause, patience, env
        self._running: list[subprocess.Popen] = []
        self._asked_at: float | None = None
        self.deaths: list[Death] = []

    def run(self) -> int:
        """The exit code: 0 where an attempt ended well, else that of the last first death (128 + signal)."""
        with self._listening():
            left, reached = self._restarts, self._progress()
            while True:
                death = self._attempt()
                if death is None:
                    return 0
                self.deaths.append(death)
                print(f"supervise: {death}", file=sys.stderr, flush=True)
                if self._progress() > reached:
                    left, reached = self._restarts, self._progress()
                if self._asked_at is not None or left == 0:
                    return self._give_up(death)
                pause = min(self._pause * 2 ** (self._restarts - left), _LONGEST_PAUSE)
                left -= 1
                print(f"supervise: starting all again in {pause:.0f} s ({left} restarts left)", file=sys.stderr, flush=True)
                self._sleep(pause)

    def _give_up(self, death: Death) -> int:
        firsts = ", ".join(f"process {d.process} ({d.code})" for d in self.deaths)
        print(f"supervise: giving up; first to die, attempt by attempt: {firsts}", file=sys.stderr, flush=True)
        return death.code if death.code > 0 else 128 - death.code

    def _attempt(self) -> Death | None:
        """All processes once; None where all ended well."""
        began = time.monotonic()
        with contextlib.ExitStack() as files:
            for command, log in zip(self._commands(), self._logs, strict=True):
                file = files.enter_context(log.open("a"))
                self._running.append(subprocess.Popen(command, stdout=file, stderr=file, env=self._env))
        try:
            return self._watch(began)
        finally:
            for process in self._running:
                # A stopped process does not hear SIGTERM.
                process.kill()
                process.wait()
            self._running.clear()

    def _watch(self, began: float) -> Death | None:
        while True:
            codes = [process.poll() for process in self._running]
            bad = next((i for i, code in enumerate(codes) if code), None)
            late = self._asked_at is not None and time.monotonic() - self._asked_at > self._patience
            if bad is None and late:
                bad = next(i for i, code in enumerate(codes) if code is None)
                codes[bad] = -signal.SIGTERM
            if bad is not None:
                lines = self._logs[bad].read_text(errors="replace").splitlines()
                said = "\n".join(f"  {line[:200]}" for line in lines[-_LAST_LINES:])
                return Death(bad, codes[bad], time.monotonic() - began, said)
            if all(code == 0 for code in codes):
                return None
            time.sleep(_POLL_SECONDS)

    def _sleep(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._asked_at is None:
            time.sleep(_POLL_SECONDS)

    @contextlib.contextmanager
    def _listening(self):
        """SIGTERM and SIGINT go to the processes, which save and leave."""

        def forward(*_):
            self._asked_at = self._asked_at or time.monotonic()
            for process in self._running:
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(signal.SIGTERM)

        before = {s: signal.signal(s, forward) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)
