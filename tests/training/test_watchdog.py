"""What stands still is shown, and what was asked to end and does not is ended; nothing else is."""

import os
import signal
import subprocess
import sys

import pytest

from scratchpatch.training import notices
from scratchpatch.training.notices import Watchdog

SIGTERM = bytes([signal.SIGTERM])


class Ended(Exception):
    pass


@pytest.fixture
def said(monkeypatch):
    found = []
    monkeypatch.setattr(notices, "_say", lambda text, stacks: found.append(text))

    def end(code):
        raise Ended(code)

    monkeypatch.setattr(os, "_exit", end)
    return found


@pytest.fixture
def clock(monkeypatch):
    """The monotonic clock, in a list."""
    now = [0.0]
    monkeypatch.setattr(notices.time, "monotonic", lambda: now[0])
    return now


def look(watching, seconds, numbers=b"", size=0, processor=0.0):
    for _ in range(int(seconds / 5)):
        watching._look(5.0, numbers, size, processor)
        numbers = b""


def test_a_run_that_stands_still_says_so_once_each_time(clock, said):
    watching = Watchdog()
    watching.moved(stepped=True)
    look(watching, 300)
    assert said == []
    look(watching, 1000)
    assert len(said) == 1 and said[0].startswith("nothing has moved for 305 s; the run waits on")
    watching.moved()
    look(watching, 200)
    assert len(said) == 1
    look(watching, 200)
    assert len(said) == 2


def test_slow_steps_get_several_times_their_time(clock, said):
    watching = Watchdog()
    watching.moved(stepped=True)
    clock[0] = 200.0
    watching.moved(stepped=True)
    look(watching, 1000)
    assert said == []
    look(watching, 20)
    assert len(said) == 1


def test_what_compiles_or_writes_moves(clock, said):
    watching = Watchdog()
    for minute in range(60):
        look(watching, 60, processor=60.0 * minute)
    watching.moved(stepped=True)
    for minute in range(60):
        look(watching, 60, size=minute << 20)
    assert said == []
    # After the first step a thread that spins is no progress.
    for minute in range(10):
        look(watching, 60, size=59 << 20, processor=1e6 + 60.0 * minute)
    assert len(said) == 1


@pytest.mark.parametrize("begun", [False, True])
def test_after_a_signal_a_process_in_which_nothing_moves_is_ended(clock, said, begun):
    watching = Watchdog()
    watching.moved(stepped=begun)
    look(watching, 1000)
    # The time before the signal does not count.
    look(watching, 300, SIGTERM, processor=1.0)
    assert len(said) == 1
    with pytest.raises(Ended, match="143"):
        for second in range(10):
            # A compilation that goes on is none of the run's any more.
            look(watching, 5, bytes([signal.SIGHUP]), processor=60.0 * second)
    assert said[-1].startswith("SIGTERM came, and nothing has moved for 305 s: ending at once, unsaved")


def test_after_a_signal_a_save_takes_as_long_as_it_writes(clock, said):
    watching = Watchdog()
    watching.moved(stepped=True)
    watching._look(5.0, SIGTERM, 0, 0.0)
    for minute in range(120):
        look(watching, 60, size=minute << 20)
    assert said == []
    with pytest.raises(Ended):
        look(watching, 400, size=119 << 20)


def test_one_of_several_processes_waits_for_the_others(clock, said):
    watching = Watchdog()
    watching.several = True
    watching.moved(stepped=True)
    look(watching, 5 + 1800, SIGTERM)
    assert len(said) == 1 and "waits on" in said[0]
    with pytest.raises(Ended, match="143"):
        look(watching, 10)


def test_other_signals_are_no_wish_to_end(clock, said):
    watching = Watchdog()
    watching.moved(stepped=True)
    look(watching, 1000, bytes([signal.SIGUSR1, signal.SIGCHLD]))
    assert len(said) == 1 and "waits on" in said[0]


_PROCESS = """
import ctypes, os, signal, threading, time
from scratchpatch.training import notices as notices_lib
from scratchpatch.training.notices import Notices
notices_lib._STILL, notices_lib._LOOK = 0.2, 0.05
def stand_still():
    # In a library, where the main thread does not hear of signals.
    libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(128)
    libc.pthread_mutex_lock(mutex)
    libc.pthread_mutex_lock(mutex)
with Notices() as notices:
    notices.first_step = {begun}
    notices.watchdog.moved(stepped={begun})
    threading.Timer(0.5, os.kill, (os.getpid(), signal.{name})).start()
    {body}
print("never")
"""


CASES = [("stand_still()", "SIGTERM"), ("stand_still()", "SIGINT"), ("time.sleep(600)", "SIGHUP")]


@pytest.mark.parametrize(("body", "name"), CASES)
@pytest.mark.parametrize("begun", [True, False])
def test_a_process_that_hears_nothing_ends_and_says_where_it_stood(body, name, begun):
    if body != "stand_still()" and not begun:
        body = "try:\n        time.sleep(600)\n    except KeyboardInterrupt:\n        stand_still()"
    code = _PROCESS.format(body=body, name=name, begun=begun)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (128 + getattr(signal, name), ""), done
    assert "nothing has moved for 0 s; the run waits on, and its threads stand here:" in done.stderr
    assert f"{name} came, and nothing has moved for 0 s: ending at once, unsaved" in done.stderr
    assert "most recent call first" in done.stderr and 'File "<string>"' in done.stderr


def test_what_was_before_is_there_again():
    before = signal.set_wakeup_fd(-1)
    signal.set_wakeup_fd(before)
    with Watchdog() as watching:
        assert watching._thread.is_alive()
    assert signal.set_wakeup_fd(before) == before and not watching._thread.is_alive()
