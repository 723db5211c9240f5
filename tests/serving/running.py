"""A server in a thread of this process, and its clients."""

import contextlib
import http.client
import json
import signal
import threading
import time

import openai

from scratchpatch.serving import app, server
from tests.serving import fake

MODEL = "tiny"
# Nothing here takes long; a server that hangs is a failure.
PATIENCE = 20.0


class Running:
    """A server that answers, with `engine` behind it."""

    def __init__(self, engine, drain_seconds=PATIENCE, **options):
        self.engine = engine
        self.app = app.create(engine, MODEL, options.pop("score", fake.score), **options)
        self.service = self.app.state.service
        self._bound = server.bind("127.0.0.1", 0)
        self.url, self.port = server.url(self._bound), self._bound.getsockname()[1]
        self.server = server.Server(self.app, drain_seconds=drain_seconds)
        self._thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self._bound]})

    def __enter__(self):
        self._thread.start()
        wait_until(lambda: self.server.started)
        return self

    def __exit__(self, *_):
        self.server.should_exit = True
        self.join()
        self._bound.close()

    def join(self):
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()

    def signal(self):
        """What a signal to the process would do."""
        self.server.handle_exit(signal.SIGTERM, None)

    def client(self, **options):
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE, **options)

    def ask(self, method, path, body=None, headers=None):
        """(status, headers, body) of one request; a dict is sent as JSON."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            sent = json.dumps(body).encode() if isinstance(body, dict) else body
            connection.request(method, path, sent, {"Content-Type": "application/json"} | (headers or {}))
            response = connection.getresponse()
            return response.status, dict(response.headers), response.read()

    def complete(self, **fields):
        """(status, JSON) of a completion."""
        status, _, body = self.ask("POST", "/v1/completions", fields)
        return status, json.loads(body)


def wait_until(true):
    """Return once `true()` is; a test fails where it never is."""
    until = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < until, "it never happened"
        time.sleep(0.002)
