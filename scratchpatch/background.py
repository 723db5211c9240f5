"""Work in a thread beside the program's own, which nobody has to wait for. Free of JAX."""

import concurrent.futures
import os
import sys
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
_started: list[concurrent.futures.Future] = []


def start(
    work: Callable[[], T], pool: concurrent.futures.ThreadPoolExecutor | None = None
) -> concurrent.futures.Future[T]:
    """Begin to do some work; `result()` of what is returned waits for it, and raises what it raised.

    pool: whose threads do it, when its turn comes; None: a thread of its own.
    """
    _started[:] = [future for future in _started if not future.done()]
    threads = pool or concurrent.futures.ThreadPoolExecutor(1, "background")
    _started.append(future := threads.submit(work))
    if pool is None:
        threads.shutdown(wait=False)
    return future


def leave(code: int) -> None:
    """End the process with this exit code, where work goes on that Python would wait for (a compilation cannot be
    interrupted); else return.
    """
    if all(future.done() for future in _started):
        return
    if "jax" in sys.modules:
        # What JAX does at exit: processes of one run leave together.
        sys.modules["jax"].distributed.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
