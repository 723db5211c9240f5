"""Completions as the client of OpenAI asks for them, and what else a request can say."""

import concurrent.futures
import json

import openai
import pytest
from hypothesis import given, strategies as st

from scratchpatch.inference.options import Options
from scratchpatch.serving.answer import Text
from tests.serving import fake
from tests.serving.running import MODEL


def text_of(prompt: bytes, size: int, seed: int, **options) -> str:
    """The text of a continuation, as the engine writes it."""
    return fake.written(prompt, Options(max_bytes=size, seed=seed, **options))[0].decode(errors="replace")


def test_a_completion(client):
    made = client.completions.create(model=MODEL, prompt="once é", max_tokens=30, seed=5, temperature=0.5)
    (choice,) = made.choices
    assert choice.text == text_of("once é".encode(), 30, 5)
    assert (choice.index, choice.finish_reason, choice.logprobs) == (0, "length", None)
    assert made.model == MODEL and made.object == "text_completion" and made.id.startswith("cmpl-")
    usage = made.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (7, 30, 37)


def test_fields_that_are_left_out_or_null_have_the_defaults_of_openai(running):
    before = len(running.engine.submitted)
    assert running.complete()[0] == 200
    assert running.complete(prompt=None, max_tokens=None, temperature=None, stop=None, n=None, seed=None)[0] == 200
    (prompt, options), (_, other) = running.engine.submitted[before:]
    assert prompt == b"" and options.max_bytes == 16 and options.temperature == 1.0
    assert options.top_p == 1.0 and options.stop == () and options.scratchpad_threshold is None
    assert options.seed != other.seed


def test_our_own_fields_reach_the_engine(client, running):
    extra = {
        "threshold": 0.5, "patch_threshold": 1.25, "top_k": 7, "min_p": 0.1, "repetition_penalty": 1.2,
        "valid_utf8": True,
    }
    client.completions.create(model=MODEL, prompt="x", top_p=0.9, temperature=0, extra_body=extra)
    _, options = running.engine.submitted[-1]
    assert options.scratchpad_threshold == 0.5 and options.patch_threshold == 1.25 and options.top_k == 7
    assert options.min_p == 0.1 and options.repetition_penalty == 1.2 and options.valid_utf8
    assert options.top_p == 0.9 and options.temperature == 0
    running.complete(prompt="x", rate=0.25)
    assert running.engine.submitted[-1][1].rate == 0.25


def test_every_choice_has_a_seed_of_its_own_and_prompts_do_not_depend_on_each_other(client):
    together = client.completions.create(model=MODEL, prompt=["one", "two"], n=2, max_tokens=12, seed=40)
    wanted = [text_of(prompt, 12, seed) for prompt in (b"one", b"two") for seed in (40, 41)]
    assert [choice.text for choice in together.choices] == wanted
    assert [choice.index for choice in together.choices] == [0, 1, 2, 3]
    assert together.usage.prompt_tokens == 6 and together.usage.completion_tokens == 48


@pytest.mark.parametrize(
    ("prompt", "wanted"),
    [
        ([255, 0, 195], [b"\xff\x00\xc3"]),
        ([[104, 105], [], [128]], [b"hi", b"", b"\x80"]),
        (["", "é"], [b"", "é".encode()]),
        ("", [b""]),
    ],
)
def test_prompts_may_be_lists_of_bytes(client, running, prompt, wanted):
    before = len(running.engine.submitted)
    made = client.completions.create(model=MODEL, prompt=prompt, max_tokens=8, seed=1)
    assert [asked for asked, _ in running.engine.submitted[before:]] == wanted
    assert [choice.text for choice in made.choices] == [text_of(one, 8, 1) for one in wanted]


def test_a_stream_has_the_same_text_and_whole_characters(client):
    fields = {"model": MODEL, "prompt": ["a", "b"], "n": 2, "max_tokens": 50, "seed": 9}
    whole = client.completions.create(**fields)
    texts, ends, pieces = [""] * 4, {}, []
    for event in client.completions.create(**fields, stream=True):
        assert event.id.startswith("cmpl-") and event.model == MODEL and event.usage is None
        (choice,) = event.choices
        texts[choice.index] += choice.text
        pieces.append(choice.text)
        if choice.finish_reason:
            assert choice.index not in ends
            ends[choice.index] = choice.finish_reason
    assert texts == [choice.text for choice in whole.choices]
    assert ends == dict.fromkeys(range(4), "length") and len(pieces) > 8
    assert {"é", "€", "😀"} & set("".join(pieces))


def test_a_stream_gives_its_usage_where_that_is_asked_for(client):
    options = {"include_usage": True}
    events = list(client.completions.create(model=MODEL, prompt="abc", stream=True, stream_options=options))
    assert all(event.usage is None for event in events[:-1])
    assert events[-1].choices == [] and events[-1].usage.total_tokens == 19


def test_stop_strings_are_no_part_of_the_text(client):
    plain = text_of(b"go", 60, 2)
    assert " the" in plain
    for stop in (" the", [" the", "never there"]):
        (choice,) = client.completions.create(model=MODEL, prompt="go", max_tokens=60, seed=2, stop=stop).choices
        assert choice.finish_reason == "stop" and choice.text == plain[: plain.index(" the")]


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities_of_bytes(client, stream):
    fields = {"model": MODEL, "prompt": "z", "max_tokens": 40, "seed": 3, "logprobs": 2, "stream": stream}
    made = client.completions.create(**fields)
    parts = [event.choices[0] for event in made] if stream else [made.choices[0]]
    columns = {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
    for part in parts:
        for name in columns:
            columns[name] += getattr(part.logprobs, name) if part.logprobs else []
    data, _ = fake.written(b"z", Options(max_bytes=40, seed=3))
    text = "".join(part.text for part in parts)
    assert text == data.decode(errors="replace")
    assert columns["tokens"] == [chr(b) if b < 128 else f"bytes:\\x{b:02x}" for b in data]
    assert columns["token_logprobs"] == [-1.0] * 40
    for byte, likely in zip(columns["tokens"], columns["top_logprobs"], strict=True):
        assert likely == {"<|endoftext|>": -0.5, byte: -1.0}
    for token, offset in zip(columns["tokens"], columns["text_offset"], strict=True):
        assert text[offset] == token or token.startswith("bytes:") and ord(text[offset]) >= 128


def test_no_alternatives_where_none_are_wanted(client):
    (choice,) = client.completions.create(model=MODEL, prompt="z", max_tokens=3, logprobs=0).choices
    assert choice.logprobs.token_logprobs == [-1.0] * 3 and choice.logprobs.top_logprobs == [None] * 3


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_begins_with_the_prompt(running, stream):
    """The prompt's last character is completed by what follows it."""
    prompt = list("né".encode())[:-1]
    fields = {"prompt": prompt, "max_tokens": 4, "seed": 8, "echo": True, "logprobs": 1, "stream": stream}
    status, _, body = running.ask("POST", "/v1/completions", fields)
    if stream:
        lines = body.decode().split("\n\n")
        assert lines[-2:] == ["data: [DONE]", ""]
        parts = [json.loads(line.removeprefix("data: "))["choices"][0] for line in lines[:-2]]
    else:
        parts = json.loads(body)["choices"]
    assert status == 200
    data = bytes(prompt) + fake.written(bytes(prompt), Options(max_bytes=4, seed=8))[0]
    assert "".join(part["text"] for part in parts) == data.decode(errors="replace")
    logprobs = [part["logprobs"] for part in parts]
    nats = [x for each in logprobs for x in each["token_logprobs"]]
    assert nats == pytest.approx([-0.6931472, -1.3862944, -1, -1, -1, -1])
    assert [x for each in logprobs for x in each["top_logprobs"]][:2] == [None, None]
    assert [x for each in logprobs for x in each["text_offset"]][:2] == [0, 1]


def test_an_echo_of_no_further_bytes_scores_the_prompt_alone(client, running):
    before = len(running.engine.submitted)
    for prompt in ("abc", ["abc", "de"]):
        made = client.completions.create(model=MODEL, prompt=prompt, max_tokens=0, echo=True, logprobs=0)
        assert made.choices[0].text == "abc" and made.choices[0].finish_reason == "length"
        assert made.choices[0].logprobs.token_logprobs == pytest.approx([-0.6931472, -1.3862944, -2.0794415])
        assert made.usage.completion_tokens == 0
    assert len(running.engine.submitted) == before


def test_a_trace_has_the_facts_of_every_byte(running):
    _, made = running.complete(prompt="q", max_tokens=10, seed=4, trace=True, threshold=2.0)
    data, _ = fake.written(b"q", Options(max_bytes=10, seed=4))
    trace = made["choices"][0]["scratchpatch"]
    assert bytes(fact["byte"] for fact in trace) == data
    assert trace[0]["entropy"] is None and [fact["commit"] for fact in trace] == [n % 4 == 3 for n in range(10)]
    assert [fact["scratchpad"] for fact in trace[1:]] == [value % 40 / 10 > 2.0 for value in data[1:]]
    assert "scratchpatch" not in running.complete(prompt="q")[1]["choices"][0]


def test_many_clients_at_once(running):
    """More than the engine has rows for; each gets what it would have got alone."""

    def ask(k):
        with running.client() as one:
            fields = {"model": MODEL, "prompt": f"client {k}", "max_tokens": 40, "seed": k}
            if k % 2:
                return one.completions.create(**fields).choices[0].text
            return "".join(event.choices[0].text for event in one.completions.create(**fields, stream=True))

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        assert list(pool.map(ask, range(32))) == [text_of(f"client {k}".encode(), 40, k) for k in range(32)]


def test_the_model_is_listed_and_no_other_answers(client, running):
    (model,) = client.models.list()
    assert model.id == MODEL and client.models.retrieve(MODEL).id == MODEL and model.owned_by == "scratchpatch"
    with pytest.raises(openai.NotFoundError, match="this server has"):
        client.models.retrieve("gpt")
    with pytest.raises(openai.NotFoundError, match="this server has") as raised:
        client.completions.create(model="gpt", prompt="x")
    assert raised.value.code == "model_not_found" and raised.value.param == "model"
    assert running.ask("GET", "/health")[::2] == (200, b'{"status":"ok"}')


@given(st.binary(max_size=40) | st.lists(st.sampled_from(fake.PIECES), max_size=12).map(b"".join))
def test_decoding_byte_by_byte_is_decoding_at_once(data):
    decoder, text = Text(), ""
    offsets = []
    for value in data:
        piece, offset = decoder.add(value)
        text += piece
        offsets.append(offset)
    text += decoder.end()
    assert text == data.decode(errors="replace")
    assert all(text[offset] == chr(value) for value, offset in zip(data, offsets, strict=True) if value < 128)
    assert offsets == sorted(offsets) and all(offset < len(text) for offset in offsets)
