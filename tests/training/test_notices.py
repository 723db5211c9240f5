"""What signals do to a process that listens, one process for each case."""

import signal
import subprocess
import sys

import pytest

_PROCESS = """
import os, signal, sys
{before}
from scratchpatch.training.notices import Notices, Stopped
def send(name):
    os.kill(os.getpid(), getattr(signal, name))
with Notices() as notices:
    notices.joined(False)
    notices.first_step = {running}
    try:
        {body}
    except Stopped:
        print("stopped", notices.stopped_by)
assert "jax" not in sys.modules
print("end")
"""


def told(body: str, running: bool = True, before: str = "") -> tuple[int, list[str], str]:
    """Exit code, lines and complaints of a process that does `body`."""
    line = [sys.executable, "-c", _PROCESS.format(body=body, running=running, before=before)]
    done = subprocess.run(line, capture_output=True, text=True)
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP", "SIGTERM"])
def test_a_signal_asks_for_the_end_after_the_step(name):
    body = f"print(notices.stop_at(1)); send('{name}'); print(notices.stop_at(1), notices.stopped_by)"
    code, lines, said = told(body)
    assert (code, lines) == (0, ["False", f"True {name}", "end"])
    assert said == f"scratchpatch: {name}: saving after this step{'; once more stops at once' * (name == 'SIGINT')}\n"


def test_a_second_interrupt_stops_at_once():
    code, lines, said = told("send('SIGINT'); print('one', flush=True); send('SIGINT'); print('two')")
    assert (code, lines) == (130, ["one"]) and said.endswith("SIGINT again: stopping at once, unsaved\n")
    # After another signal the first one only asks, as that did.
    assert told("send('SIGTERM'); send('SIGINT'); print(notices.stop_at(1))")[:2] == (0, ["True", "end"])
    assert told("send('SIGTERM'); send('SIGINT'); send('SIGINT')")[0] == 130


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP", "SIGTERM"])
def test_before_the_first_step_a_signal_ends_what_is_under_way(name):
    assert told(f"send('{name}'); print('more')", running=False)[:2] == (0, [f"stopped {name}", "end"])


def test_a_wish_to_save_is_told_once():
    code, lines, _ = told("send('SIGUSR1'); print(notices.save_at(1), notices.save_at(2), notices.stop_at(2))")
    assert (code, lines) == (0, ["True False False", "end"])


def test_what_was_ignored_stays_ignored():
    ignored = "signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    assert told("send('SIGHUP'); print(notices.stop_at(1))", before=ignored)[:2] == (0, ["False", "end"])
    line = [sys.executable, "-c", _PROCESS.format(body="pass", running=True, before="") + "send('SIGTERM')"]
    # Afterwards all is as before.
    assert subprocess.run(line, stdout=subprocess.DEVNULL).returncode == -signal.SIGTERM


_LIBRARY = """
import ctypes
heard = []
handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(heard.append)
def took_it():
    ctypes.CDLL(None).signal(signal.SIGTERM, handler)
    notices.joined(True)
def tell(name):
    send(name)
    end = time.monotonic() + 60
    while not heard and time.monotonic() < end:
        time.sleep(0.01)
    print(name, heard, notices.stopped_by)
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGHUP", "SIGTERM"])
def test_of_several_processes_the_others_are_told_the_way_that_a_library_listens_to(name):
    code, lines, said = told(f"took_it(); tell('{name}')", before="import time" + _LIBRARY)
    assert (code, lines) == (0, [f"{name} [15] {name}", "end"])
    once_more = "; once more stops at once" * (name == "SIGINT")
    assert said == f"scratchpatch: {name}: all processes save and stop{once_more}\n"


def test_a_signal_that_came_before_the_processes_found_each_other_is_passed_on_then():
    body = "notices._several = True; send('SIGTERM'); took_it(); print(heard, notices.stopped_by)"
    assert told(body, before="import time" + _LIBRARY)[:2] == (0, ["[15] SIGTERM", "end"])
