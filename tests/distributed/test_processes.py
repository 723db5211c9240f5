"""What one process does for all, tells the others, and tells them of its failure: two processes over loopback."""

import socket
import subprocess
import sys
import threading

import pytest

from scratchpatch.distributed import processes

# Each question is asked by both processes, one after the other. Then one of them fails, and the other one is deep in a
# collective of their devices.
PROCESS = """
import sys
from concurrent.futures import ThreadPoolExecutor
from jax.experimental import multihost_utils
from scratchpatch.distributed import processes
from scratchpatch.errors import UserError

PORT, ME, FAILING = map(int, sys.argv[1:])

def fail(error):
    raise error

def questions():
    yield lambda: [processes.first(lambda: n * "x" if ME == 0 else 1 / 0) == n * "x" for n in (1, 100_000, 0)]
    yield lambda: processes.first(lambda: fail(UserError("use another")))
    yield lambda: processes.first(lambda: fail(OSError(28, "No space left")))
    yield lambda: processes.first(lambda: object())
    yield lambda: processes.first(lambda: fail(KeyboardInterrupt()))
    yield lambda: processes.first(lambda: sys.exit(3))
    yield lambda: processes.together(lambda: ("mine", ME))
    yield lambda: processes.together(lambda: 1 / (1 - ME))
    yield lambda: [processes.gather(lambda: [ME], "a"), processes.gather(lambda: ME * 10, "a")]
    yield lambda: processes.gather(lambda: 1 / (1 - ME), "a")
    yield lambda: processes.first(alone)
    yield lambda: processes.first(lambda: "after")

def alone():
    with processes.alone():
        processes.agree({"what": "mine"})
        return [processes.first(lambda: ME), processes.together(lambda: ME), processes.gather(lambda: ME, "a")]

processes.start(f"127.0.0.1:{PORT},{ME},2")
for ask in questions():
    try:
        print("found", ask(), flush=True)
    except BaseException as error:
        print(type(error).__name__, error, flush=True)
processes._GRACE_SECONDS = 0.5
with processes.last_words():
    if ME == 0:
        # As a checkpoint does in the background: it waits for files of the other one.
        ThreadPoolExecutor().submit(processes.gather, lambda: 1, "files")
    multihost_utils.sync_global_devices("before")
    if ME == FAILING:
        raise OSError(28, "No space left")
    multihost_utils.sync_global_devices("after")
"""


def run_pair(failing: int) -> tuple[list[int], list[list[str]], list[str]]:
    """Exit codes, lines and complaints of two processes of which one fails at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lines = [[sys.executable, "-c", PROCESS, str(port), str(process), str(failing)] for process in range(2)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = [subprocess.Popen(line, text=True, **pipes) for line in lines]
    answers, complaints = zip(*(process.communicate(timeout=120) for process in running), strict=True)
    return [process.returncode for process in running], [said.splitlines() for said in answers], complaints


@pytest.fixture(scope="module")
def pairs():
    """What `run_pair` gives, by the process that fails."""
    return [run_pair(failing) for failing in range(2)]


@pytest.fixture(scope="module")
def answers(pairs):
    """What each of the two processes says to the questions, in their order."""
    _, lines, _ = pairs[0]
    return list(zip(*lines, strict=True))


def test_an_answer_of_any_length_comes_whole(answers):
    assert answers[0] == ("found [True, True, True]",) * 2


@pytest.mark.parametrize(
    "question, here, there",
    [
        (1, "UserError use another", "UserError use another"),
        (2, "OSError [Errno 28] No space left", "UserError process 0 failed: OSError: [Errno 28] No space left;"),
        (3, "TypeError Object of type object is not JSON", "UserError process 0 failed: TypeError: Object of type"),
        (4, "KeyboardInterrupt", "KeyboardInterrupt"),
        (5, "SystemExit 3", "UserError process 0 failed: SystemExit: 3;"),
    ],
    ids=["user", "disk", "value", "interrupt", "exit"],
)
def test_whatever_the_first_one_raises_is_told(answers, question, here, there):
    said = answers[question]
    assert said[0].startswith(here) and said[1].startswith(there), said


def test_none_goes_on_where_one_of_all_fails(answers):
    assert answers[6] == ("found ('mine', 0)", "found ('mine', 1)")
    assert answers[7][0].startswith("UserError process 1 failed: ZeroDivisionError: division by zero;")
    assert answers[7][1].startswith("ZeroDivisionError")


def test_the_first_one_gathers_what_each_has(answers):
    assert answers[8] == ("found [[[0], [1]], [0, 10]]", "found [[], []]")
    assert answers[9][0].startswith("UserError process 1 failed: ZeroDivisionError")
    assert answers[9][1].startswith("ZeroDivisionError")


def test_what_one_does_alone_asks_nobody(answers):
    """And the others, who did not do it, still count questions alike."""
    assert answers[10:12] == [("found [0, 0, [0]]",) * 2, ("found after",) * 2]


@pytest.mark.parametrize("failing", (0, 1))
def test_who_waits_in_a_collective_is_ended_with_the_message_of_the_one_that_failed(pairs, failing):
    codes, _, said = pairs[failing]
    assert codes == [1, 1], said
    assert "OSError: [Errno 28] No space left" in said[failing] and "Traceback" in said[failing]
    wanted = f"scratchpatch: process {failing} failed: OSError: [Errno 28] No space left; its own output says where"
    assert wanted in said[1 - failing].splitlines(), said


def test_a_file_that_appears_later_is_waited_for(tmp_path):
    path = tmp_path / "new" / "file"
    assert not processes.appears(path, 0)

    def write():
        path.parent.mkdir()
        path.touch()

    later = threading.Timer(0.3, write)
    later.start()
    assert processes.appears(path, 60)
    later.join()
    assert processes.appears(path, 0)
