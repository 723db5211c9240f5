"""Looks on while a run trains, from a thread of its own.

Where nothing has moved for some minutes it prints where each thread stands, once, and the run goes on. A process that a
signal asked to end, and in which nothing has moved since for as long, is ended: with exit code 128 + signal, unsaved.

What moves is the loop (`moved`), and bytes that the process reads or writes: saving 100 GB to a slow disk takes as long
as it takes. Before the first step the processor's time counts too, for compiling does nothing else, but not for the end.
Free of JAX: a signal may come while JAX is being imported.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import threading
import time
from collections.abc import Callable, Collection

# Seconds without a movement, at least; a run whose slowest step takes long gets several times that.
_STILL, _SLOWEST = 300.0, 5
# The same for the end of one of several processes: it may be waiting for another one that validates or writes.
_STILL_TOGETHER = 1800.0
# Seconds between two looks.
_LOOK = 5.0
# Bytes read or written, and seconds of the processor, that are more than what an idle process needs.
_BYTES, _PROCESSOR = 1 << 20, 2.0


class Watchdog:
    """Looks on while it is open.

    Args:
      ending: the signals that ask for the process's end.
      heard: called in the watchdog's thread with the first of them that comes.

    Attributes:
      several: the run has other processes.
    """

    def __init__(self, ending: Collection[int], heard: Callable[[int], None] = lambda number: None):
        self._ending, self._heard_of = ending, heard
        self.several = False
        self._asked = 0
        self._begun = False
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
        asked = next((number for number in numbers if number in self._ending), 0)
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
            _say(f"{came}: ending at once, unsaved; the threads stand here:")
            os._exit(128 + self._asked)
        if self._still > limit and not self._said:
            self._said = True
            _say(f"nothing has moved for {self._still:.0f} s; the run waits on, and its threads stand here:")


def _say(text: str) -> None:
    # The streams' own locks may be held by a thread that stands still.
    with contextlib.suppress(OSError):
        os.write(2, f"scratchpatch: {text}\n".encode())
        faulthandler.dump_traceback(2, all_threads=True)


def _size() -> int:
    """Bytes that this process has read and written; 0 where the system does not say."""
    try:
        with open("/proc/self/io", "rb") as file:
            return sum(int(line.split()[1]) for line in file.read().splitlines()[:2])
    except (OSError, ValueError, IndexError):
        return 0
