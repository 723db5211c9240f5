"""Clients that hang up, queues that are full, engines that fail, and the numbers of all that."""

import http.client
import json
import re
import threading

import openai
import pytest

from scratchpatch.serving import driver
from scratchpatch.serving.request import Limits
from tests.serving import fake
from tests.serving.running import MODEL, PATIENCE, wait_until


def numbers(running):
    """Name and labels to value, of /metrics."""
    status, headers, body = running.ask("GET", "/metrics")
    assert status == 200 and headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = body.decode().splitlines()
    assert body.endswith(b"\n") and all(re.fullmatch(r"# TYPE \w+ (counter|gauge|histogram)|\S+ \S+", x) for x in lines)
    return {name: float(value) for name, _, value in (line.partition(" ") for line in lines if line[0] != "#")}


@pytest.fixture
def paused(start):
    """A server whose two rows stand still, and of which two more may wait."""
    running = start(fake.Engine(rows=2), limits=Limits(queue=2))
    running.engine.paused = True
    yield running
    running.engine.paused = False


def begin(running, **fields):
    """A connection on which a request waits for its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)
    connection.request("POST", "/v1/completions", json.dumps(fields), {"Content-Type": "application/json"})
    return connection


def test_a_full_queue_is_429_until_there_is_a_place(paused):
    held = [begin(paused, prompt="a", n=2), begin(paused, prompt="b", n=2, stream=True)]
    wait_until(lambda: len(paused.engine.submitted) == 4)
    assert (paused.engine.running, paused.engine.waiting) == (2, 2)
    status, headers, body = paused.ask("POST", "/v1/completions", {"prompt": "c"})
    assert status == 429 and headers["retry-after"] == "1"
    assert json.loads(body)["error"]["type"] == "rate_limit_error"
    with pytest.raises(openai.RateLimitError, match="4 rows run and wait, of 4 at most"):
        paused.client().completions.create(model=MODEL, prompt="c")
    paused.engine.paused = False
    for connection in held:
        answer = connection.getresponse()
        assert answer.status == 200 and len(answer.read()) > 100
        connection.close()
    assert paused.complete(prompt="c")[0] == 200
    found = numbers(paused)
    assert found['scratchpatch_requests_total{status="429"}'] == 2
    assert found['scratchpatch_requests_total{status="200"}'] == 3


@pytest.mark.parametrize("stream", [False, True])
def test_who_hangs_up_has_the_rows_cancelled(paused, stream):
    connection = begin(paused, prompt="a", n=3, stream=stream)
    wait_until(lambda: len(paused.engine.submitted) == 3)
    connection.sock.close()
    connection.close()
    wait_until(lambda: paused.engine.idle)
    assert paused.engine.cancelled == [0, 1, 2] and paused.service.driver.held == 0
    wait_until(lambda: numbers(paused)['scratchpatch_requests_total{status="499"}'] == 1)
    wait_until(lambda: paused.service.open == 0)


def test_who_hangs_up_in_the_middle_of_a_stream_disturbs_nobody(start):
    running = start(fake.Engine(rows=4, per_step=1, delay=0.001))
    others, asked = [], {"model": MODEL, "max_tokens": 60, "seed": 1}

    def listen():
        others.append(running.client().completions.create(**asked, prompt="calm").choices[0].text)

    thread = threading.Thread(target=listen)
    thread.start()
    for k in range(5):
        with running.client() as client:
            stream = client.completions.create(**(asked | {"max_tokens": 5000}), prompt=f"left {k}", stream=True)
            assert next(iter(stream)).choices[0].finish_reason is None
            stream.close()
    wait_until(lambda: len(running.engine.cancelled) == 5)
    thread.join(PATIENCE)
    assert others == [running.client().completions.create(**asked, prompt="calm").choices[0].text]
    wait_until(lambda: running.service.driver.held == running.service.open == 0)


def test_who_hangs_up_before_the_body_is_there_is_nobodys_failure(running):
    before = len(running.engine.submitted)
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)
    connection.putrequest("POST", "/v1/completions")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", "100")
    connection.endheaders(b'{"prompt"')
    wait_until(lambda: running.service.open == 1)
    connection.close()
    wait_until(lambda: running.service.open == 0)
    assert len(running.engine.submitted) == before and running.complete(prompt="x")[0] == 200


def test_the_numbers(start):
    running = start(fake.Engine(rows=4))
    running.complete(prompt=["abc", "de"], n=2, max_tokens=8, threshold=1e30)
    running.complete(prompt="x", max_tokens=4, threshold=-1e30)
    running.complete(prompt="x", max_tokens=-4)
    found = numbers(running)
    assert found["scratchpatch_prompt_bytes_total"] == 6 and found["scratchpatch_generated_bytes_total"] == 36
    assert found['scratchpatch_trunk_calls_total{kind="commit"}'] == 4 * 2 + 1
    # The first byte of a text has no entropy, which is above nothing.
    assert found['scratchpatch_trunk_calls_total{kind="scratchpad"}'] == 3
    assert found['scratchpatch_requests_total{status="200"}'] == 2
    assert found['scratchpatch_requests_total{status="400"}'] == 1
    assert found["scratchpatch_rows"] == 4 and found["scratchpatch_rows_running"] == 0
    assert found["scratchpatch_rows_waiting"] == found["scratchpatch_requests_open"] == 0
    for name in ("scratchpatch_first_byte_seconds", "scratchpatch_byte_seconds"):
        assert found[f"{name}_count"] == found[f'{name}_bucket{{le="+Inf"}}'] == 5
        buckets = [value for key, value in found.items() if key.startswith(f"{name}_bucket")]
        assert buckets == sorted(buckets) and 0 < found[f"{name}_sum"] < PATIENCE


def test_a_failed_engine_is_said_to_all_who_wait(start):
    running = start(fake.Engine(rows=2))
    running.engine.paused = True
    waiting = [begin(running, prompt="a"), begin(running, prompt="b", stream=True)]
    wait_until(lambda: len(running.engine.submitted) == 2)
    running.engine.failing = True
    reason = "the engine has failed: out of luck"
    whole, stream = [connection.getresponse() for connection in waiting]
    assert whole.status == 500 and json.loads(whole.read())["error"]["message"] == reason
    (event,) = stream.read().decode().split("\n\n")[:-1]
    assert stream.status == 200 and json.loads(event.removeprefix("data: "))["error"]["message"] == reason
    for connection in waiting:
        connection.close()
    running.join()
    assert isinstance(running.server.failure, RuntimeError) and running.service.state == "failed"


def test_a_client_of_a_stream_gets_the_failure_as_an_error(start):
    running = start(fake.Engine(rows=2, per_step=1, delay=0.001))
    stream = iter(running.client().completions.create(model=MODEL, prompt="a", max_tokens=60_000, stream=True))
    next(stream)
    running.engine.failing = True
    with pytest.raises(openai.APIError, match="the engine has failed"):
        list(stream)


def test_a_failed_server_takes_nothing_new(start):
    running = start(fake.Engine(rows=2))
    running.service.driver.on_failure = lambda: None  # it stays, to be asked
    running.engine.failing = True
    assert running.complete(prompt="a")[0] == 500
    assert running.complete(prompt="a") == running.complete(prompt="b") and running.complete(prompt="a")[0] == 500
    assert running.ask("GET", "/health")[::2] == (503, b'{"status":"failed"}')


def test_prompts_that_cannot_be_scored_leave_no_row_behind(start):
    def broken(prompt):
        raise ZeroDivisionError("nothing to divide by")

    running = start(fake.Engine(rows=2), score=broken)
    for stream in (False, True):
        fields = {"prompt": "a", "echo": True, "logprobs": 1, "stream": stream}
        status, _, body = running.ask("POST", "/v1/completions", fields)
        assert status == (200 if stream else 500) and b"could not be scored: nothing to divide by" in body
    wait_until(lambda: running.service.driver.held == running.service.open == 0)
    assert numbers(running)['scratchpatch_requests_total{status="500"}'] == 2


def test_an_engine_is_warm_before_it_serves():
    engine = fake.Engine()
    driver.warm_up(engine)
    assert engine.idle and {options.logprobs for _, options in engine.submitted} == {0, 1}
    assert len({len(prompt) for prompt, _ in engine.submitted}) == 3
