"""What cannot be answered is refused with the reason, in the shape that OpenAI's clients read."""

import contextlib
import http.client
import json

import openai
import pytest

from scratchpatch.serving.request import Limits
from tests.serving import fake
from tests.serving.running import MODEL, PATIENCE


def refused(running, fields=None, body=None, status=400):
    """(message, param) of a request that is refused."""
    got, _, answer = running.ask("POST", "/v1/completions", fields if body is None else body)
    error = json.loads(answer)["error"]
    assert got == status and set(error) == {"message", "type", "param", "code"}
    assert error["type"] == "invalid_request_error" and "\n" not in error["message"]
    return error["message"], error["param"]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompts": "x"}, "prompts", "unknown field 'prompts'"),
        ({"prompt": 3}, "prompt", "Expected"),
        ({"prompt": []}, "prompt", "empty list"),
        ({"prompt": [256]}, "prompt", "<= 255"),
        ({"prompt": [[-1]]}, "prompt", ">= 0"),
        ({"prompt": ["x", 1]}, "prompt", "mixed"),
        ({"prompt": ["x"] * 65}, "prompt", "at most 64"),
        ({"prompt": "\ud800"}, "prompt", "list of byte values"),
        ({"prompt": "bad"}, None, "cannot be read"),
        ({"max_tokens": -1}, "max_tokens", ">= 0"),
        ({"max_tokens": 65537}, "max_tokens", "at most 65536"),
        ({"max_tokens": 1.5}, "max_tokens", "Expected"),
        ({"n": 0}, "n", ">= 1"),
        ({"n": 17}, "n", "at most 16"),
        ({"n": 2, "best_of": 3}, "best_of", "n's value 2"),
        ({"temperature": -0.5}, "temperature", "0 or above"),
        ({"top_p": 0}, "top_p", "above 0"),
        ({"top_k": -1}, "top_k", ">= 0"),
        ({"logprobs": 6}, "logprobs", "<= 5"),
        ({"logprobs": True}, "logprobs", "Expected"),
        ({"stop": ["a"] * 5}, "stop", "at most 4"),
        ({"stop": ["a", ""]}, "stop", "empty string"),
        ({"seed": -1}, "seed", ">= 0"),
        ({"seed": 1 << 63}, "seed", ""),
        ({"presence_penalty": 0.5}, "presence_penalty", "leave it out"),
        ({"frequency_penalty": -1}, "frequency_penalty", "leave it out"),
        ({"suffix": "x"}, "suffix", "leave it out"),
        ({"logit_bias": {"1": 2}}, "logit_bias", "leave it out"),
        ({"stream_options": {}}, "stream_options", "set stream"),
        ({"stream": True, "stream_options": {"usage": True}}, "stream_options", "unknown field"),
        ({"threshold": "low"}, "threshold", "Expected"),
        ({"threshold": 1e31}, "threshold", "nats"),
        ({"rate": 2}, "rate", "scratchpads per byte"),
        ({"rate": 0.1, "threshold": 2}, "rate", "that threshold = 2.0 sets"),
        ({"min_p": 1}, "min_p", "below 1"),
        ({"repetition_penalty": 0}, "repetition_penalty", "above 0"),
        ({"valid_utf8": 1}, "valid_utf8", "Expected"),
        ({"valid_utf8": True, "stop": ["x"], "temperature": -1}, "temperature", "0 or above"),
    ],
)
def test_a_bad_field_is_named(running, fields, param, words):
    message, named = refused(running, fields)
    assert named == param and words in message and (param is None or param in message)


def test_what_says_nothing_is_accepted(running):
    fields = {
        "presence_penalty": 0, "frequency_penalty": 0.0, "best_of": 1, "suffix": "", "logit_bias": {}, "user": "me",
        "stream": False, "stream_options": None, "echo": False, "logprobs": None, "model": None,
    }
    assert running.complete(**fields)[0] == 200


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "no JSON"),
        (b"{", "no JSON"),
        (b"[1]", "Expected object, got array"),
        (b"nothing", "no JSON"),
        (b'{"prompt": "\xff"}', "no UTF-8"),
        (b'{"temperature": NaN}', "NaN"),
        (b'{"temperature": 1e999}', "finite"),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", "no JSON"),
        (b'{"prompt": ' + b"[" * 40 + b"]" * 40 + b"}", "nested"),
        (b'{"prompt": ' + b"[" * 100_000, "nested"),
        (b'{"\\u001b[31m": 1}', "\\x1b"),
    ],
)
def test_a_bad_body_is_refused(running, body, words):
    message, _ = refused(running, body=body)
    assert words in message and message.isprintable()


def test_a_body_that_is_not_said_to_be_json_is_refused(running):
    for kind in ("", "text/plain", "application/x-www-form-urlencoded"):
        got, _, answer = running.ask("POST", "/v1/completions", b'{"prompt": "x"}', {"Content-Type": kind})
        assert got == 415 and b"Content-Type: application/json" in answer
    said = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert running.ask("POST", "/v1/completions", b'{"prompt": "x"}', said)[0] == 200


def test_a_large_body_is_refused(start):
    running = start(fake.Engine(), limits=Limits(body=1000))
    assert running.complete(prompt="x" * 900)[0] == 200
    message, _ = refused(running, {"prompt": "x" * 1000}, status=413)
    assert message == "the body has more than 1000 bytes"
    # Its length is not said before.
    got, _, _ = running.ask("POST", "/v1/completions", iter([b'{"prompt": "', b"x" * 1000, b'"}']))
    assert got == 413
    with pytest.raises(openai.APIStatusError, match="more than 1000 bytes"):
        running.client().completions.create(model=MODEL, prompt="x" * 1000)


def test_a_body_that_does_not_come_is_refused(start):
    running = start(fake.Engine(), limits=Limits(body_seconds=0.05))
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=PATIENCE)
    with contextlib.closing(connection):
        connection.putrequest("POST", "/v1/completions")
        connection.putheader("Content-Type", "application/json")
        connection.putheader("Content-Length", "100")
        connection.endheaders(b'{"prompt"')
        answer = connection.getresponse()
        assert answer.status == 408 and b"not there after 0.05 s" in answer.read()


def test_paths_and_methods_that_there_are_not(running):
    for method, path, status in (("GET", "/v1/chat", 404), ("GET", "/v1/completions", 405), ("DELETE", "/health", 405)):
        got, _, answer = running.ask(method, path)
        assert got == status and json.loads(answer)["error"]["message"]


def test_more_rows_than_the_server_holds_are_refused_for_good(start):
    running = start(fake.Engine(rows=2), limits=Limits(queue=2))
    message, param = refused(running, {"prompt": ["a", "b", "c"], "n": 2})
    assert param == "n" and "this server holds 4 rows" in message
    assert running.complete(prompt=["a", "b"], n=2)[0] == 200


def test_without_scores_no_prompt_is_echoed_with_log_probabilities(start):
    running = start(fake.Engine(), score=None)
    assert refused(running, {"prompt": "x", "echo": True, "logprobs": 1})[1] == "echo"
    assert running.complete(prompt="x", echo=True)[0] == 200


def test_a_wrong_row_takes_the_others_of_its_request_along(start):
    engine = fake.Engine()
    running = start(engine)
    engine.paused = True
    refused(running, {"prompt": ["good", "bad"]})
    engine.paused = False
    assert running.complete(prompt="x")[0] == 200
    assert engine.cancelled == [0] and running.service.driver.held == 0
