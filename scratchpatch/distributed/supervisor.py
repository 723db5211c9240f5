"""The processes of one machine as one: started together, stopped together, started anew from the last checkpoint.

A killed worker leaves the others waiting in a collective, and a killed coordinator aborts them, so nothing less than
all of them is restarted. Free of JAX: the supervisor holds no device.
"""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from scratchpatch import output
from scratchpatch.distributed.heartbeat import PERIOD, Pulse

_POLL_SECONDS = 0.05
_LONGEST_PAUSE = 60.0
_LAST_LINES = 5
# A process that missed so many seconds of beats when another one died was stopped before: the other died of waiting.
_MISSED = 5 * PERIOD


@dataclasses.dataclass(frozen=True)
class Death:
    """The first process of an attempt to end badly, so many seconds after the attempt's start."""

    process: int
    code: int  # negative where a signal ended it
    why: str
    seconds: float
    last_lines: str

    def __str__(self) -> str:
        return f"process {self.process} {self.why} after {self.seconds:.0f} s"


class Supervisor:
    """Runs attempts until one ends well, or the budget of restarts is used up. commands: called before each attempt;
    the command line of each process. restarts: attempts after the first that may fail in a row without progress, a
    number that grows when an attempt achieved something. pause: seconds before the first restart; doubled by each, up
    to a minute. grace: seconds that processes get to save and leave after SIGTERM. silence: seconds without a heartbeat
    after which a process counts as stopped; None: the processes have none.
    """

    def __init__(
        self, commands: Callable[[], Sequence[Sequence[str]]], logs: Sequence[Path], restarts: int,
        progress: Callable[[], int] = lambda: 0, pause: float = 1.0, grace: float = 120.0,
        silence: float | None = None, env: dict[str, str] | None = None,
    ):
        self._commands, self._logs, self._restarts = commands, logs, restarts
        self._progress, self._pause, self._grace, self._silence = progress, pause, grace, silence
        self._env = dict(os.environ) if env is None else env
        self._running: list[subprocess.Popen] = []
        self._pulses: list[Pulse] = []
        # When a signal asked for the end, and whether a second SIGINT asks for it at once.
        self._asked_at: float | None = None
        self._at_once = False
        self.deaths: list[Death] = []

    def run(self) -> int:
        """The exit code: 0 where an attempt ended well, else that of the last first death (128 + signal). SIGTERM,
        SIGINT and SIGHUP ask the processes to save and leave, a second SIGINT kills them. SIGUSR1 goes to one of them,
        which is enough for all to save. The processes have groups of their own: what a terminal sends comes to the
        supervisor alone.
        """
        with self._listening():
            left, reached = self._restarts, self._progress()
            while True:
                death = self._attempt()
                if death is None:
                    return self._end("done", 0)
                self.deaths.append(death)
                _say(f"{death}; its last lines:\n{death.last_lines}")
                if self._progress() > reached:
                    left, reached = self._restarts, self._progress()
                if self._asked_at is None and left > 0:
                    pause = min(self._pause * 2 ** (self._restarts - left), _LONGEST_PAUSE)
                    left -= 1
                    _say(f"starting all again in {pause:.0f} s ({left} restarts left)")
                    end = time.monotonic() + pause
                    while time.monotonic() < end and self._asked_at is None:
                        time.sleep(_POLL_SECONDS)
                    if self._asked_at is None:
                        continue
                return self._end("giving up", death.code if death.code > 0 else 128 - death.code)

    def _end(self, outcome: str, code: int) -> int:
        deaths = "; ".join(f"{i}: {death}" for i, death in enumerate(self.deaths, start=1))
        _say(outcome + (f"; first to die, attempt by attempt: {deaths}" if deaths else ""))
        return code

    def _attempt(self) -> Death | None:
        """Run all processes once; None where all ended well."""
        began = time.monotonic()
        try:
            with contextlib.ExitStack() as files:
                for command, log in zip(self._commands(), self._logs, strict=True):
                    self._start(command, files.enter_context(log.open("a")))
            return self._watch(began)
        finally:
            for process in self._running:
                # A stopped process does not hear SIGTERM.
                process.kill()
                process.wait()
            for pulse in self._pulses:
                pulse.close()
            self._running.clear()
            self._pulses.clear()

    def _start(self, command: Sequence[str], log) -> None:
        pulse = Pulse()
        self._pulses.append(pulse)
        env = self._env | (pulse.environment if self._silence is not None else {})
        # A wish to save waits until the process listens (see training.notices), and does not end it before.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
        try:
            process = subprocess.Popen(command, stdout=log, stderr=log, env=env, pass_fds=[pulse.pipe], process_group=0)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        self._running.append(process)
        pulse.started()

    def _watch(self, began: float) -> Death | None:
        stopping = False
        while True:
            if self._asked_at is not None and not stopping:
                stopping = True
                for process in self._running:
                    process.send_signal(signal.SIGTERM)
            codes = [process.poll() for process in self._running]
            # Asked to leave before it could listen, a process had nothing to save.
            good = (0, -signal.SIGTERM) if stopping else (0,)
            if bad := self._first_bad(codes, good):
                lines = self._logs[bad[0]].read_text(errors="replace").splitlines()[-_LAST_LINES:]
                last_lines = "\n".join(f"  {line[:200]}" for line in lines)
                return Death(*bad, time.monotonic() - began, last_lines)
            if all(code in good for code in codes):
                return None
            time.sleep(_POLL_SECONDS)

    def _first_bad(self, codes: list[int | None], good: tuple[int, ...]) -> tuple[int, int, str] | None:
        """Process, exit code and reason of what ended the attempt; None: it goes on."""
        alive = [i for i, code in enumerate(codes) if code is None]
        dead = next((i for i, code in enumerate(codes) if code is not None and code not in good), None)
        if self._at_once and alive:
            return alive[0], -signal.SIGINT, "was killed, by a second SIGINT"
        if self._silence is not None and alive:
            seconds, silent = max((self._pulses[i].silence(), i) for i in alive)
            if seconds > (self._silence if dead is None else _MISSED):
                return silent, -signal.SIGKILL, f"stopped answering, was silent for {seconds:.0f} s and killed"
        if dead is not None:
            code = codes[dead]
            return dead, code, f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        if alive and self._asked_at is not None and time.monotonic() - self._asked_at > self._grace:
            return alive[0], -signal.SIGTERM, f"did not leave within {self._grace:.0f} s of SIGTERM and was killed"
        return None

    @contextlib.contextmanager
    def _listening(self):
        def stop(number, _):
            self._at_once = number == signal.SIGINT and self._asked_at is not None
            self._asked_at = self._asked_at or time.monotonic()

        def pass_on(number, _):
            alive = next((process for process in self._running if process.poll() is None), None)
            if alive:
                alive.send_signal(number)

        handlers = dict.fromkeys((signal.SIGTERM, signal.SIGINT, signal.SIGHUP), stop) | {signal.SIGUSR1: pass_on}
        # What was ignored at the start, as nohup has it, stays so.
        before = {s: signal.signal(s, handlers[s]) for s in handlers if signal.getsignal(s) is not signal.SIG_IGN}
        try:
            yield
        finally:
            for s, handler in before.items():
                signal.signal(s, handler)


def _say(text: str) -> None:
    # Where standard error is a file on a full disk, the run goes on.
    with contextlib.suppress(OSError):
        print("supervise:", output.escaped(text, "\n\t"), file=sys.stderr, flush=True)
