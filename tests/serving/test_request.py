"""Bodies of any kind become a request that can be answered, or a refusal that says why."""

import json

import pytest
from hypothesis import given, strategies as st

from scratchpatch.errors import UserError
from scratchpatch.serving import request
from scratchpatch.serving.refusal import Refused

NAMES = ("prompt", "max_tokens", "temperature", "top_p", "n", "stream", "stream_options", "logprobs", "echo", "stop")
NAMES += ("seed", "best_of", "threshold", "patch_threshold", "rate", "top_k", "min_p", "repetition_penalty", "trace")
NAMES += ("valid_utf8", "presence_penalty", "suffix", "logit_bias", "user", "model", "unknown")
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
VALUES = st.recursive(SCALARS, lambda any: st.lists(any, max_size=3) | st.dictionaries(st.text(), any, max_size=2))
# More of those that are accepted.
LIKELY = {"n": st.integers(1, 4), "prompt": st.text() | st.lists(st.integers(0, 255)), "max_tokens": st.integers(0, 99)}


def read(body: bytes) -> request.Request | None:
    """The request, checked; None where it is refused, with a reason in one line."""
    try:
        asked = request.read(body, request.USUAL)
    except Refused as refusal:
        assert refusal.status == 400 and str(refusal).isprintable() and len(str(refusal)) <= 1000
        json.dumps(refusal.body()).encode()
        return None
    assert 1 <= len(asked.options) <= request.USUAL.n
    assert len({options.seed for options in asked.options}) == len(asked.options)
    for prompt, options in asked.rows:
        assert isinstance(prompt, bytes) and options.max_bytes <= request.USUAL.max_tokens
        options.check()
    return asked


@given(st.data(), st.lists(st.sampled_from(NAMES), unique=True, max_size=6))
def test_any_values_of_the_fields(data, names):
    read(json.dumps({name: data.draw(LIKELY.get(name, st.nothing()) | VALUES) for name in names}).encode())


@given(st.binary(max_size=60) | VALUES.map(json.dumps).map(str.encode))
def test_any_body(body):
    read(body)


@given(st.text(st.characters(codec="utf-8")), st.lists(st.binary(max_size=9), min_size=1, max_size=3))
def test_a_text_and_its_bytes_are_one_prompt(text, prompts):
    texts = [read(json.dumps({"prompt": given}).encode()).prompts for given in (text, [text], [list(text.encode())])]
    assert texts == [(text.encode(),)] * 3
    assert read(json.dumps({"prompt": [list(one) for one in prompts]}).encode()).prompts == tuple(prompts)


@pytest.mark.parametrize(
    ("said", "message", "param"),
    [
        ("max_bytes = -1 must be", "max_tokens = -1 must be", "max_tokens"),
        ("scratchpad_threshold = 2 beside rate", "threshold = 2 beside rate", "threshold"),
        ("the prompt is too long", "the prompt is too long", None),
    ],
)
def test_what_an_engine_says_of_options_is_said_of_fields(said, message, param):
    refusal = request.refusal_of(UserError(said))
    assert (refusal.status, str(refusal), refusal.param) == (400, message, param)
