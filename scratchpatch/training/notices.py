"""What signals ask of a run.

    SIGINT (Ctrl-C), SIGHUP, SIGTERM    save and stop; the second SIGINT stops at once, unsaved
    SIGUSR1                             save and go on

A signal that was ignored when the process started (nohup, a job in the background) stays ignored. Any of several
processes may get a signal: all of them stop, or save, at one step.

The watchdog ends a process that stands still after a signal with exit code 128 + signal, unsaved.
What moves is the loop (`moved`), and bytes that the process reads or writes: saving 100 GB to a slow disk takes as long
as it takes. Before the first step the processor's time counts too, for compiling does nothing else; but not for the
end. This module is free of JAX until the run asks, because a signal may come while JAX is being imported.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import select
import signal
import threading
import time
from collections.abc import Callable

STOPPING = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
# The exit code that a shell gives a process which SIGINT ended.
INTERRUPTED = 130
# Seconds without a movement, at least; a run whose slowest step takes long gets several times that.
_STILL, _SLOWEST = 300.0, 5
# The same for the end of one of several processes: it may be waiting for another one that validates or writes.
_STILL_TOGETHER = 1800.0
# Seconds between two looks.
_LOOK = 5.0
# Bytes read or written, and seconds of the processor, that are more than what an idle process needs.
_BYTES, _PROCESSOR = 1 << 20, 2.0


class Stopped(KeyboardInterrupt):
    """A signal came before the first step, when there was nothing to save yet."""


class Notices:
    """Listens to signals while it is open. several: the run has other processes. stopped_by: the signal that asked for
    the end, such as 'SIGINT'; '' as long as none did. first_step: the first step has begun, so that stopping waits for
    the step. watchdog: must be told what moves.
    """

    def __init__(self, several: bool = False):
        self.stopped_by, self.first_step = "", False
        self.watchdog = Watchdog(self._pass_on)
        # JAX's own handler of SIGTERM, by which it tells the other processes; any thread may call it.
        self._jax_handler: Callable[[int], None] | None = None
        self._several, self._save, self._saves = several, False, 0
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
            # JAX took SIGTERM for itself.
            handler = _library_handler(signal.SIGTERM)
            signal.signal(signal.SIGTERM, self._stop if signal.SIGTERM in self._before else signal.SIG_IGN)
            self._jax_handler = handler if several else None
        if self.stopped_by:
            self._pass_on(signal.SIGTERM)

    def stop_at(self, step: int) -> bool:
        """Whether to stop before this step; the same in every process."""
        if not self._several:
            return bool(self.stopped_by)
        from jax.experimental import multihost_utils

        # JAX passes on that SIGTERM reached any process, and says where all of them stop.
        return multihost_utils.reached_preemption_sync_point(step)

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

        names = processes.gather(lambda: self.stopped_by, "stopped by, each")
        return processes.first(lambda: next((n.name for n in STOPPING if n.name in names), "SIGTERM"), "stopped by")

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
        if self._jax_handler:
            self._jax_handler(signal.SIGTERM)

    def _ask_save(self, *_) -> None:
        self._save = True
        _say("SIGUSR1: saving after this step")


def _library_handler(number: int) -> Callable[[int], None] | None:
    """The handler that a library in C set for a signal, or None; the signal has its default effect afterwards. Any
    thread may call the handler. Python's own getsignal does not know of such handlers.
    """
    exchange = ctypes.CDLL(None).signal
    exchange.argtypes, exchange.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
    address = exchange(number, int(signal.SIG_DFL))
    nobody = address in (None, int(signal.SIG_DFL), int(signal.SIG_IGN))
    return None if nobody else ctypes.CFUNCTYPE(None, ctypes.c_int)(address)


class Watchdog:
    """Looks on while it is open. several: the run has other processes. heard: told of the first of STOPPING."""

    def __init__(self, heard: Callable[[int], None] = lambda number: None):
        self._heard_of, self.several = heard, False
        self._asked, self._begun = 0, False
        self._moves, self._at, self._slowest = 0, time.monotonic(), 0.0
        # Seconds since something moved, and since something moved that puts off the end.
        self._still = self._still_asked = 0.0
        self._said = self._closed = False
        self._seen = self._moves, 0, 0.0

    def __enter__(self) -> Watchdog:
        # A signal writes its number there at once, also where the main thread is deep in a library and hears nothing.
        self._heard, self._wakeup = os.pipe()
        os.set_blocking(self._wakeup, False)
        self._before = None
        with contextlib.suppress(ValueError):  # only the main thread can listen
            self._before = signal.set_wakeup_fd(self._wakeup, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._work, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.set_wakeup_fd(self._before)
        self._closed = True
        # Closing the pipe would not do: a forked process may hold it open.
        with contextlib.suppress(BlockingIOError):
            os.write(self._wakeup, bytes(1))
        self._thread.join()
        os.close(self._wakeup)
        os.close(self._heard)

    def moved(self, stepped: bool = False) -> None:
        """The run goes on; stepped: a step is done."""
        now = time.monotonic()
        self._begun |= stepped
        if self._begun:
            self._slowest = max(self._slowest, now - self._at)
        self._at = now
        self._moves += 1

    def _work(self) -> None:
        at = time.monotonic()
        while True:
            ready, _, _ = select.select([self._heard], [], [], _LOOK)
            numbers = os.read(self._heard, 4096) if ready else b""
            if self._closed:
                return
            before, at = at, time.monotonic()
            # A process that was stopped for an hour was not still for an hour.
            self._look(min(at - before, 2 * _LOOK), numbers, _size(), time.process_time())

    def _look(self, passed: float, numbers: bytes, size: int, processor: float) -> None:
        """passed: seconds since the last look. numbers: of signals that came. size, processor: see the module."""
        self._still += passed
        self._still_asked += passed
        asked = next((number for number in numbers if number in STOPPING), 0)
        if asked and not self._asked:
            self._asked, self._still_asked = asked, 0.0
            self._heard_of(asked)
        moves, size_then, processor_then = self._seen
        if self._moves != moves or size - size_then >= _BYTES:
            self._seen = self._moves, size, processor
            self._still, self._still_asked, self._said = 0.0, 0.0, False
        elif not self._begun and processor - processor_then >= _PROCESSOR:
            self._seen = moves, size_then, processor
            self._still, self._said = 0.0, False
        limit = max(_STILL, _SLOWEST * self._slowest)
        if self._asked and self._still_asked > max(limit, _STILL_TOGETHER if self.several else 0.0):
            came = f"{signal.Signals(self._asked).name} came, and nothing has moved for {self._still_asked:.0f} s"
            _say(f"{came}: ending at once, unsaved; the threads stand here:", stacks=True)
            os._exit(128 + self._asked)
        if self._still > limit and not self._said:
            self._said = True
            waits = f"nothing has moved for {self._still:.0f} s; the run waits on, and its threads stand here:"
            _say(waits, stacks=True)


def _say(text: str, stacks: bool = False) -> None:
    # The streams' own locks may be held where a signal strikes, or by a thread that stands still.
    with contextlib.suppress(OSError):
        os.write(2, f"scratchpatch: {text}\n".encode())
        if stacks:
            faulthandler.dump_traceback(2, all_threads=True)


def _size() -> int:
    """Bytes that this process has read and written; 0 where the system does not say."""
    try:
        with open("/proc/self/io", "rb") as file:
            return sum(int(line.split()[1]) for line in file.read().splitlines()[:2])
    except (OSError, ValueError, IndexError):
        return 0
