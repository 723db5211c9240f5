"""What signals ask of a run.

    SIGINT (Ctrl-C), SIGHUP, SIGTERM    save and stop; the second SIGINT stops at once, unsaved
    SIGUSR1                             save and go on

A process that is asked to end ends: see `watchdog` for one that stands still.
A signal that was ignored when the process started (nohup, a job in the background) stays ignored. Of several processes
any may get a signal: all of them stop, or save, at one step.
Free of JAX until the run asks: a signal may come while JAX is being imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Callable

from scratchpatch.training.watchdog import Watchdog

STOPPING = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
# As a shell has it for a process that SIGINT ended.
INTERRUPTED = 130


class Stopped(KeyboardInterrupt):
    """A signal came before the first step, when there was nothing to save yet."""


class Notices:
    """Listens while it is open.

    Args:
      several: the run has other processes.

    Attributes:
      stopped_by: the signal that asked for the end, such as 'SIGINT'; '' as long as none did.
      first_step: the first step has begun, so that stopping waits for the step.
      watchdog: to be told what moves.
    """

    def __init__(self, several: bool = False):
        self.stopped_by = ""
        self.first_step = False
        self.watchdog = Watchdog(STOPPING, self._pass_on)
        # Of several processes: how JAX hears of SIGTERM, from any thread.
        self._theirs: Callable[[int], None] | None = None
        self._several = several
        self._save = False
        self._saves = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> Notices:
        self.watchdog.__enter__()
        handlers = dict.fromkeys(STOPPING, self._stop) | {signal.SIGUSR1: self._ask_save}
        with contextlib.suppress(ValueError):  # only the main thread can listen
            for number, handler in handlers.items():
                if signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, handler)
            # A supervisor holds it back until here.
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()
        self.watchdog.__exit__()

    def joined(self, several: bool) -> None:
        """The processes of the run have found each other: from here on JAX passes on what stops one of several."""
        self._several = self.watchdog.several = several
        if self._before:
            # JAX took it.
            theirs = _handler(signal.SIGTERM)
            signal.signal(signal.SIGTERM, self._stop if signal.SIGTERM in self._before else signal.SIG_IGN)
            self._theirs = theirs if several else None
        if self.stopped_by:
            self._pass_on(signal.SIGTERM)

    def stop_at(self, step: int) -> bool:
        """Whether to stop before this step; the same in every process."""
        if not self._several:
            return bool(self.stopped_by)
        from scratchpatch.distributed import processes

        return processes.stops_at(step)

    def save_at(self, step: int) -> bool:
        """Whether to save after so many steps, because some process was asked to; the same in every process."""
        asked, self._save = self._save, False
        if not self._several:
            return asked
        from scratchpatch.distributed import processes

        saves = processes.reached(f"save {self._saves}", step, asked)
        self._saves += saves
        return saves

    def reason(self) -> str:
        """The signal that stopped the run, whichever process it came to; the same in every process."""
        from scratchpatch.distributed import processes

        return processes.any_of([number.name for number in STOPPING], self.stopped_by) or signal.SIGTERM.name

    def _stop(self, number: int, _) -> None:
        name = signal.Signals(number).name
        if number == signal.SIGINT and self.stopped_by == name:
            _say("SIGINT again: stopping at once, unsaved")
            os._exit(INTERRUPTED)
        if self.stopped_by:
            # A Ctrl-C after another signal is no second one yet.
            self.stopped_by = name if number == signal.SIGINT else self.stopped_by
            return
        self.stopped_by = name
        if not self._several and not self.first_step:
            raise Stopped
        what = "all processes save and stop" if self._several else "saving after this step"
        _say(f"{name}: {what}" + "; once more stops at once" * (number == signal.SIGINT))

    def _pass_on(self, _: int) -> None:
        """Tell the other processes. The watchdog calls it: the main thread may hear of a signal only after the step."""
        if self._theirs:
            self._theirs(signal.SIGTERM)

    def _ask_save(self, *_) -> None:
        self._save = True
        _say("SIGUSR1: saving after this step")


def _handler(number: int) -> Callable[[int], None] | None:
    """What a library in C does on a signal, to be called from any thread; None: nothing. Nobody listens afterwards.

    Python's own getsignal does not know of such handlers.
    """
    exchange = ctypes.CDLL(None).signal
    exchange.argtypes, exchange.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    address = exchange(number, int(signal.SIG_DFL))
    nobody = address in (None, int(signal.SIG_DFL), int(signal.SIG_IGN))
    return None if nobody else ctypes.CFUNCTYPE(None, ctypes.c_int)(address)


def _say(text: str) -> None:
    # The streams' own locks may be held where a signal strikes.
    with contextlib.suppress(OSError):
        os.write(2, f"scratchpatch: {text}\n".encode())
