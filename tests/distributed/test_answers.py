"""What one process does for all, told to the others: two processes over loopback, without a model."""

import socket
import subprocess
import sys

import pytest

# Each question is asked by both processes, one after the other.
QUESTIONS = """
def questions(processes, me):
    def fail(error):
        raise error

    yield lambda: [processes.first(lambda: n * "x" if me == 0 else 1 / 0) == n * "x" for n in (1, 100_000, 0)]
    yield lambda: processes.first(lambda: fail(UserError("use another")))
    yield lambda: processes.first(lambda: fail(OSError(28, "No space left")))
    yield lambda: processes.first(lambda: object())
    yield lambda: processes.first(lambda: fail(KeyboardInterrupt()))
    yield lambda: processes.first(lambda: sys.exit(3))
    yield lambda: processes.together(lambda: ("mine", me))
    yield lambda: processes.together(lambda: 1 / (1 - me))
    yield lambda: [processes.gather(lambda: [me], "a"), processes.gather(lambda: me * 10, "a")]
    yield lambda: processes.gather(lambda: 1 / (1 - me), "a")
"""
PROCESS = """
import sys
from scratchpatch.errors import UserError
from scratchpatch.distributed import processes

processes.start("127.0.0.1:{port},{process},2")
for ask in questions(processes, {process}):
    try:
        print("found", ask())
    except BaseException as error:
        print(type(error).__name__, error)
"""


@pytest.fixture(scope="module")
def answers():
    """What each of the two processes says to the questions, in their order."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    codes = [QUESTIONS + PROCESS.format(port=port, process=process) for process in range(2)]
    running = [subprocess.Popen([sys.executable, "-c", code], text=True, stdout=subprocess.PIPE) for code in codes]
    return list(zip(*(p.communicate(timeout=120)[0].splitlines() for p in running), strict=True))


def test_an_answer_of_any_length_comes_whole(answers):
    assert answers[0] == ("found [True, True, True]",) * 2


@pytest.mark.parametrize(
    "question, here, there",
    [
        (1, "UserError use another", "UserError use another"),
        (2, "OSError [Errno 28] No space left", "UserError process 0 failed: OSError: [Errno 28] No space left;"),
        (3, "TypeError Object of type object is not JSON", "UserError process 0 failed: TypeError: Object of type object"),
        (4, "KeyboardInterrupt", "KeyboardInterrupt"),
        (5, "SystemExit 3", "UserError process 0 failed: SystemExit: 3;"),
    ],
    ids=["user", "disk", "value", "interrupt", "exit"],
)
def test_whatever_the_first_one_raises_is_told(answers, question, here, there):
    assert answers[question][0].startswith(here) and answers[question][1].startswith(there), answers[question]


def test_none_goes_on_where_one_of_all_fails(answers):
    assert answers[6] == ("found ('mine', 0)", "found ('mine', 1)")
    assert answers[7][0].startswith("UserError process 1 failed: ZeroDivisionError: division by zero;")
    assert answers[7][1].startswith("ZeroDivisionError")


def test_the_first_one_gathers_what_each_has(answers):
    assert answers[8] == ("found [[[0], [1]], [0, 10]]", "found [[], []]")
    assert answers[9][0].startswith("UserError process 1 failed: ZeroDivisionError") and answers[9][1].startswith("ZeroDivisionError")
