"""Programs that do harm, or end early, each in a sandbox of its own."""

import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from scratchpatch.errors import UserError
from scratchpatch.tasks.sandbox import run as sandbox

SLEEPER = [os.path.realpath(sys.executable), "-ISc", "import time; time.sleep(1000)"]
LIMITS = sandbox.Limits(seconds=4.0, cpu_seconds=1, memory_bytes=1 << 28, processes=5)
needs_namespaces = pytest.mark.skipif(bool(sandbox._refusal()), reason=f"no namespaces here: {sandbox._refusal()}")

HARMLESS = {
    "nothing": "",
    "the standard library": """
        import collections, datetime, hashlib, heapq, itertools, math, random, re, tempfile, typing
        assert math.comb(4, 2) == 6
        with tempfile.TemporaryFile() as file:
            file.write(b"x")
        """,
    "its own folder": """
        import os
        assert os.listdir() == []
        open("note", "w").write("x")
        assert open("note").read() == "x"
        """,
    "a thread": """
        import threading
        thread = threading.Thread(target=print, args=("hello",))
        thread.start()
        thread.join()
        """,
    "closes its output": "import os\nfor number in range(3): os.close(number)",
    "leaves a daemon": """
        import os, time
        if not os.fork():
            os.setsid()
            if not os.fork():
                time.sleep(1000)
            os._exit(0)
        """,
    "knows nothing": """
        import os, sys
        assert not os.environ and sys.argv == [""] and sys.stdin.read() == ""
        assert __name__ == "program"
        """,
}
# Programs, and what the reason must hold.
HARMFUL = {
    "loops": ("while True: pass", "killed by SIG|more than"),
    "exits with 0": ("import sys\nsys.exit(0)", "SystemExit: 0"),
    "exits at once with 0": ("import os\nos._exit(0)", "ended early, with exit code 0"),
    "exits from an atexit function": ("import atexit, os\natexit.register(os._exit, 0)\nexit()", "NameError"),
    "fails": ("print('so far')\nassert 1 == 2, 'no'", "AssertionError: no"),
    "is no Python": ("def f(:", "SyntaxError"),
    "is no UTF-8": (b"x = '\xff'", "SyntaxError"),
    "crashes": ("import ctypes\nctypes.string_at(0)", "killed by SIGSEGV"),
    "kills itself": ("import os\nos.kill(os.getpid(), 9)", "killed by SIGKILL"),
    "eats memory": ("rows = []\nwhile True: rows.append(bytearray(1 << 22))", "MemoryError"),
    "opens files": ("files = []\nwhile True: files.append(open('/dev/null'))", "Too many open files"),
    "writes a large file": ("f = open('f', 'wb')\nwhile True: f.write(bytes(1 << 20))", "File too large"),
    "writes many files": (
        "import itertools\nfor n in itertools.count(): open(str(n), 'wb').write(bytes(1 << 22))",
        "No space left",
    ),
    "writes elsewhere": ("open('/usr/lib/x', 'w')", "Read-only file system"),
    "writes into the root": ("open('/x', 'w')", "Read-only file system"),
    "reads a process": ("open('/proc/self/environ').read()", "No such file"),
    "takes new rights": (
        "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000): raise PermissionError('none')",
        "PermissionError",
    ),
    "traces process 1": (
        "import ctypes\nif ctypes.CDLL(None).ptrace(16, 1, 0, 0): raise PermissionError('none')",
        "PermissionError",
    ),
    "forks": (
        """
        import os, time
        forks = 0
        while True:
            try:
                if not os.fork():
                    time.sleep(1000)
            except OSError:
                break
            forks += 1
        raise RuntimeError(forks)
        """,
        "RuntimeError: 4$",
    ),
    "kills all": (
        """
        import os
        for target in (os.getppid(), 1, -1):
            try:
                os.kill(target, 9)
            except OSError:
                pass
        raise RuntimeError("process 1 lives")
        """,
        "process 1 lives",
    ),
}


def source(text: str | bytes) -> bytes:
    return text if isinstance(text, bytes) else textwrap.dedent(text).encode()


@pytest.fixture(scope="module")
def outcomes():
    """All programs of the tables, run side by side."""
    programs = HARMLESS | {name: program for name, (program, _) in HARMFUL.items()}
    return dict(zip(programs, sandbox.run_all([source(p) for p in programs.values()], LIMITS), strict=True))


@needs_namespaces
@pytest.mark.parametrize("name", HARMLESS)
def test_a_program_passes_that_comes_to_its_end(name, outcomes):
    assert outcomes[name].reason == ""
    assert outcomes[name].passed


@needs_namespaces
@pytest.mark.parametrize("name", HARMFUL)
def test_a_program_does_not_pass_that_does_not(name, outcomes):
    assert not outcomes[name].passed
    assert re.search(HARMFUL[name][1], outcomes[name].reason), outcomes[name]


@needs_namespaces
def test_a_program_is_ended_after_its_time():
    outcome = sandbox.run(b"import time\ntime.sleep(1000)", sandbox.Limits(seconds=0.5))
    assert outcome.reason == "it ran for more than 0.5 seconds"
    assert outcome.seconds < 60


@needs_namespaces
def test_output_without_end_is_cut():
    program = b"print('beginning')\nwhile True: print('x' * 1000)"
    outcome = sandbox.run(program, sandbox.Limits(seconds=1.0, output_bytes=100))
    assert not outcome.passed
    assert outcome.output == b"beginning\n" + b"x" * 90


@needs_namespaces
def test_much_output_is_no_fault():
    assert sandbox.run(b"for _ in range(1000): print('x' * 1000)").passed


@needs_namespaces
def test_there_is_no_network():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        program = f"import socket\nsocket.create_connection(('127.0.0.1', {port}), timeout=5)".encode()
        assert "unreachable" in sandbox.run(program, LIMITS).reason
        # Without a sandbox the same program comes through.
        assert sandbox.run(program, dataclasses.replace(LIMITS, processes=1000), namespaces=False).passed


@needs_namespaces
def test_nothing_of_the_user_can_be_seen(tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("x")
    hidden = [str(secret), str(Path.cwd()), str(Path(__file__)), "/proc", "/sys", "/etc/passwd"]
    program = f"import os\nseen = [path for path in {hidden} if os.path.exists(path)]\nassert not seen, seen"
    assert sandbox.run(program.encode(), LIMITS).reason == ""


@needs_namespaces
def test_nothing_is_left_of_a_program(tmp_path):
    """Its files and processes are gone, also those that it has set free."""
    mark = f"mark-{os.getpid()}"
    program = f"""
        import os, time
        open({mark!r}, "w").write("x")
        if not os.fork():
            os.setsid()
            os.execv({SLEEPER[0]!r}, {[*SLEEPER, mark]})
        time.sleep(0.3)
        """
    assert sandbox.run(textwrap.dedent(program).encode(), LIMITS).passed
    assert not os.path.exists(f"/tmp/{mark}")
    assert not processes_of(mark)


@needs_namespaces
def test_a_program_ends_with_the_one_that_waits_for_it():
    mark = f"mark-{os.getpid()}"
    program = textwrap.dedent(f"""
        import os
        os.execv({SLEEPER[0]!r}, {[*SLEEPER, mark]})
        """)
    command = f"from scratchpatch.tasks.sandbox import run\nrun.run({program.encode()!r}, run.Limits(seconds=600))"
    with subprocess.Popen([sys.executable, "-c", command]) as waiting:
        wait_until(lambda: processes_of(mark))
        waiting.kill()
    wait_until(lambda: not processes_of(mark))


@needs_namespaces
@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare")
def test_a_user_without_other_users_shuts_programs_in_as_well():
    """A root who has no user to give the program to makes a namespace of users, as everyone but root does."""
    names = ("its own folder", "writes elsewhere", "kills all", "takes new rights", "reads a process")
    programs = [source(HARMLESS[name] if name in HARMLESS else HARMFUL[name][0]) for name in names]
    command = f"""
        import json
        from scratchpatch.tasks.sandbox import run
        print(json.dumps([outcome.reason for outcome in run.run_all({programs!r})]))
        """
    argv = ["unshare", "--user", "--map-root-user", sys.executable, "-c", textwrap.dedent(command)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr and done.returncode:
        pytest.skip(f"no namespaces of users here: {done.stderr.strip()}")
    harmless, *harmful = json.loads(done.stdout)
    assert harmless == ""
    for name, reason in zip(names[1:], harmful, strict=True):
        assert re.search(HARMFUL[name][1], reason), (name, reason)


def test_without_namespaces_limits_hold():
    programs = {
        b"assert 1 == 1": "",
        b"import sys\nsys.exit(0)": "SystemExit: 0",
        b"rows = []\nwhile True: rows.append(bytearray(1 << 22))": "MemoryError:",
        b"f = open('f', 'wb')\nwhile True: f.write(bytes(1 << 20))": "OSError: [Errno 27] File too large",
        b"import os\nos.kill(os.getppid(), 9)\nimport time\ntime.sleep(1000)": "it was killed",
    }
    outcomes = sandbox.run_all(list(programs), LIMITS, namespaces=False)
    assert [outcome.reason for outcome in outcomes] == list(programs.values())


def test_without_namespaces_daemons_are_killed():
    mark = f"mark-{os.getpid()}"
    program = f"import os\nif not os.fork():\n    os.setsid()\n    os.execv({SLEEPER[0]!r}, {[*SLEEPER, mark]})"
    assert sandbox.run(program.encode(), dataclasses.replace(LIMITS, processes=10000), namespaces=False).passed
    wait_until(lambda: not processes_of(mark))


def test_a_machine_without_namespaces_is_refused_in_one_line(monkeypatch):
    def refuse(*arguments):
        raise sandbox._Refused("unshare: Operation not permitted")

    monkeypatch.setattr(sandbox, "_run", refuse)
    sandbox._refusal.cache_clear()
    try:
        with pytest.raises(UserError, match="unshare: Operation not permitted.*--unsafe_execution") as caught:
            sandbox.run(b"")
    finally:
        sandbox._refusal.cache_clear()
    assert "\n" not in str(caught.value)


def processes_of(mark: str) -> list[str]:
    """Processes whose command line names the mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "cmdline").read_bytes().split(b"\0"):
                found.append(folder.name)
        except OSError:
            pass
    return found


def wait_until(condition) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "this did not come"
        time.sleep(0.05)
