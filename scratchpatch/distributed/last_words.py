"""An exception that ends one process of a run, told to the others, which wait for it where nothing else reaches them."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator

import jax
from jax._src import distributed

from scratchpatch import output
from scratchpatch.distributed import processes
from scratchpatch.errors import UserError

_KEY = "scratchpatch/last words"
# Seconds between two looks for them; and those in which a process that heard them may end by itself, as one does that
# failed alike.
_LOOK, _GRACE = 1.0, 10.0
_AFTER = 2.0


@contextlib.contextmanager
def told() -> Iterator[None]:
    """Tell the other processes of an exception that leaves this block, and end this one where another tells of one.

    A process that waits in a collective of devices for one that failed cannot be interrupted: it is ended, with exit
    code 1 and the other's message, if it is not gone after ten seconds.
    """
    if jax.process_count() == 1:
        yield
        return
    done = threading.Event()
    listener = threading.Thread(target=_listen, args=(done,), name="last words", daemon=True)
    listener.start()
    try:
        yield
    except BaseException as error:
        what = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        # Of several the first is enough; and a coordinator that is gone has told them already.
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            distributed.global_state.client.key_value_set(_KEY, f"process {jax.process_index()} failed: {what}")
        processes.give_up()
        raise
    finally:
        done.set()
        listener.join()


def _listen(done: threading.Event) -> None:
    while not done.wait(_LOOK):
        try:
            said = distributed.global_state.client.key_value_try_get(_KEY)
        except jax.errors.JaxRuntimeError:
            continue
        if not done.wait(_GRACE):
            with contextlib.suppress(OSError):
                print(f"scratchpatch: {output.one_line(said)}; its own output says where", file=sys.stderr, flush=True)
            # As at the end of Python, which this process would not reach.
            jax.distributed.shutdown()
            # The one that failed is the first to go, for who looks for the cause.
            time.sleep(_AFTER)
            os._exit(1)
