"""How a supervisor knows that its processes still run: each writes a byte a second into a pipe.

Free of JAX: the supervisor holds no device, and a process beats before it has one.
"""

import contextlib
import os
import signal
import threading
import time

_VARIABLE = "SCRATCHPATCH_HEARTBEAT"
PERIOD = 1.0


def start() -> None:
    """Beat in the background, if a supervisor started this process. Once the supervisor is gone, the process saves and
    leaves as after SIGTERM.
    """
    # The variable is taken out, so that no process which this one starts beats in its name.
    pipe = os.environ.pop(_VARIABLE, None)
    if pipe is not None:
        threading.Thread(target=_beat, args=(int(pipe),), daemon=True, name="heartbeat").start()


def _beat(pipe: int) -> None:
    while True:
        try:
            os.write(pipe, b".")
        except BrokenPipeError:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        time.sleep(PERIOD)


class Pulse:
    """The supervisor's end of the pipe that a process inherits; `environment` is added to the process's own."""

    def __init__(self):
        self._end, self.pipe = os.pipe()
        os.set_blocking(self._end, False)
        self.environment = {_VARIABLE: str(self.pipe)}
        self._heard = time.monotonic()

    def started(self) -> None:
        """The process runs and has its own copy of the pipe."""
        os.close(self.pipe)

    def silence(self) -> float:
        """Seconds since the last beat, or since this was made."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self._end, 4096):
                self._heard = time.monotonic()
        return time.monotonic() - self._heard

    def close(self) -> None:
        os.close(self._end)
