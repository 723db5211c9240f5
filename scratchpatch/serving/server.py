"""The process of a server: its socket, its signals, and its end.

SIGTERM or SIGINT: requests are refused with 503 from then on, those that run are finished, and the process ends. A
second signal ends it at once.
"""

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from absl import logging
from starlette.applications import Starlette

from scratchpatch.errors import UserError
from scratchpatch.serving.refusal import Refused

# Seconds between two looks whether all is answered.
_LOOK = 0.02
# Seconds that clients have for the last bytes of their answers.
_LAST_BYTES = 5


def bind(host: str, port: int) -> socket.socket:
    """A socket of that address, which refuses connections until `run` listens. port 0: any that is free. Raises
    UserError where there is none.
    """
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # A name may stand for addresses of both kinds.
        family, _, _, _, address = min(places, key=lambda place: place[0] != socket.AF_INET)
        bound = socket.socket(family)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
        return bound
    except (OSError, UnicodeError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        fix = "name an address of this machine, and a free port"
        raise UserError(f"--host={host} --port={port}: {reason}; {fix}") from error


def url(bound: socket.socket) -> str:
    """Where a browser of this machine finds the server."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if bound.family == socket.AF_INET6 else f"http://{host}:{port}"


def run(app: Starlette, bound: socket.socket, drain_seconds: float, tell: Callable[[str], None]) -> None:
    """Answer requests until a signal ends it. tell: is given the line that says where the server is, once it answers.

    Raises:
      KeyboardInterrupt: a second signal came.
      Exception: whatever the engine failed with, after all who waited have been told.
    """
    server = Server(app, drain_seconds, tell)
    server.run(sockets=[bound])
    if server.failure is not None:
        raise server.failure
    if server.cut:
        raise KeyboardInterrupt


class Server(uvicorn.Server):
    """uvicorn, which ends a server only after its requests are answered, as long as that takes no more than
    `drain_seconds`. cut: a second signal came.
    """

    def __init__(self, app: Starlette, drain_seconds: float, tell: Callable[[str], None] = lambda text: None):
        # Named, so that no package that happens to be here changes how connections are read.
        super().__init__(
            uvicorn.Config(
                app, loop="asyncio", http="h11", ws="none", lifespan="on", log_config=None, access_log=False,
                server_header=False, proxy_headers=False, timeout_graceful_shutdown=_LAST_BYTES,
            )
        )
        self._service, self._drain_seconds, self._tell = app.state.service, drain_seconds, tell
        self._service.driver.on_failure = self._end
        self._loop: asyncio.AbstractEventLoop | None = None
        self._draining: asyncio.Task | None = None
        self.cut = False

    @property
    def failure(self) -> BaseException | None:
        return self._service.driver.failure

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._loop = asyncio.get_running_loop()
        await super().startup(sockets)
        service, engine = self._service, self._service.driver.engine
        rows = f"{engine.rows} rows, {service.limits.queue} more may wait"
        self._tell(f"{service.model} is served at {url(sockets[0])} ({rows})")

    def handle_exit(self, sig: int, frame) -> None:
        """What a signal does; uvicorn's own would close the socket at once, and send the signal again at the end."""
        self._loop.call_soon_threadsafe(self.drain)

    def drain(self) -> None:
        """End after what runs; asked again, end now."""
        if self._draining is None:
            self._service.draining = True
            self._draining = self._loop.create_task(self._finish())
        else:
            self.cut = True
            self._stop_now()

    async def _finish(self) -> None:
        try:
            async with asyncio.timeout(self._drain_seconds):
                while self._service.open:
                    await asyncio.sleep(_LOOK)
        except TimeoutError:
            logging.warning("%d requests were not finished in %g s", self._service.open, self._drain_seconds)
            self._stop_now()
        self._end()

    def _stop_now(self) -> None:
        self._service.driver.abandon(Refused(503, "the server has stopped"))
        self._end()

    def _end(self) -> None:
        self.should_exit = True
