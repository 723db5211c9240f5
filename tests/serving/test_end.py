"""How a server ends: by signals, at once, or because its time is over; and where it cannot begin."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from scratchpatch.errors import UserError
from scratchpatch.serving import server
from tests.serving import fake
from tests.serving.running import PATIENCE, wait_until
from tests.serving.test_load import begin

ROOT = Path(__file__).parents[2]


def test_a_server_drains(start):
    running = start(fake.Engine(rows=2, per_step=1, delay=0.002))
    stream = begin(running, prompt="a", max_tokens=200, stream=True)
    wait_until(lambda: running.engine.submitted)
    running.signal()
    wait_until(lambda: running.service.draining)
    assert running.ask("GET", "/health")[::2] == (503, b'{"status":"draining"}')
    status, headers, body = running.ask("POST", "/v1/completions", {"prompt": "b"})
    assert status == 503 and json.loads(body)["error"]["message"] == "the server is stopping"
    assert headers["retry-after"] == "10"
    assert stream.getresponse().read().endswith(b"data: [DONE]\n\n")
    stream.close()
    running.join()
    assert not running.server.cut and running.server.failure is None
    with pytest.raises(ConnectionRefusedError):
        running.ask("GET", "/health")


def test_draining_ends_where_its_time_is_over(start):
    running = start(fake.Engine(rows=2), drain_seconds=0.05)
    running.engine.paused = True
    waiting = [begin(running, prompt="a"), begin(running, prompt="b", stream=True)]
    wait_until(lambda: len(running.engine.submitted) == 2)
    running.signal()
    whole, stream = [connection.getresponse() for connection in waiting]
    assert whole.status == 503 and b"the server has stopped" in whole.read() and b"has stopped" in stream.read()
    for connection in waiting:
        connection.close()
    running.join()
    assert sorted(running.engine.cancelled) == [0, 1]


def test_asked_twice_a_server_ends_at_once(start):
    running = start(fake.Engine(rows=2))
    running.engine.paused = True
    connection = begin(running, prompt="a")
    wait_until(lambda: running.engine.submitted)
    running.signal()
    running.signal()
    running.join()
    connection.close()
    assert running.server.cut


CHILD = """
import sys, threading
from scratchpatch import cli
from scratchpatch.serving import app, server
from scratchpatch.verbs import VERBS
from tests.serving import fake
import dataclasses

def run(values, answer):
    made = app.create(fake.Engine(rows=2, per_step=1, delay=0.01), "tiny", fake.score)
    server.run(made, server.bind(values.host, values.port), values.drain_seconds, answer.line)

VERBS["serve"] = dataclasses.replace(VERBS["serve"], run=run)
sys.argv = ["scratchpatch", "serve", "--workdir=.", "--port=0"]
sys.exit(cli.script())
"""


def test_sigterm_ends_a_process_after_what_runs():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", CHILD], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            line = process.stdout.readline()
            port = int(line.partition("http://127.0.0.1:")[2].split()[0])
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
            fields = {"prompt": "a", "max_tokens": 40, "stream": True}
            connection.request("POST", "/v1/completions", json.dumps(fields), {"Content-Type": "application/json"})
            answer = connection.getresponse()
            began = answer.readline()
            process.send_signal(signal.SIGTERM)
            rest = answer.read()
            connection.close()
            out, err = process.communicate(timeout=PATIENCE)
        finally:
            process.kill()
    # An event has one byte or more: as many as were written while the one before was sent.
    assert began.startswith(b"data: {") and rest.endswith(b"data: [DONE]\n\n") and b'"finish_reason":"length"' in rest
    assert process.returncode == 0 and out == "" and err == "", (out, err)


def test_an_address_that_cannot_be_bound_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"--host=127.0.0.1 --port={port}: Address already in use; name an"):
            server.bind("127.0.0.1", port)
    for host in ("192.0.2.1", "a\0b", "x" * 300):
        with pytest.raises(UserError, match="name an address of this machine"):
            server.bind(host, 0)


def test_the_place_of_a_server_is_a_url():
    with server.bind("127.0.0.1", 0) as bound:
        assert server.url(bound) == f"http://127.0.0.1:{bound.getsockname()[1]}"
