"""Files of prompts: what a line may hold, and what continues it, by one tiny model with random weights."""

import base64
import dataclasses
import json

import pytest

from scratchpatch.errors import UserError
from scratchpatch.inference import continuation, prompts
from scratchpatch.inference.engine import Engine
from scratchpatch.inference.options import Options
from tests.inference.models import language_model, some_bytes

DEFAULTS = Options(max_bytes=6, temperature=1.0, seed=5)


def write(folder, *lines):
    """A file of prompts: of objects, or of bytes as they are."""
    path = folder / "prompts.jsonl"
    path.write_bytes(b"".join(x if isinstance(x, bytes) else json.dumps(x).encode() + b"\n" for x in lines))
    return path


def read(path, defaults=DEFAULTS):
    return list(prompts.read(path, defaults))


def test_a_line_has_a_prompt_and_options_of_its_own(tmp_path):
    path = write(
        tmp_path,
        {"prompt": "sí"},
        {"prompt_base64": base64.b64encode(b"\xff\x00").decode(), "id": "b", "seed": 1, "max_bytes": 2, "stop": "\n"},
        {"prompt": "", "id": 7, "threshold": 2, "top_k": 3, "top_p": 0.5, "stop": ["a", "é"], "valid_utf8": True},
        b'{"prompt": "no line end", "logprobs": 2, "min_p": 0.25, "repetition_penalty": 2}',
    )
    one, two, three, four = read(path)
    assert one == prompts.Prompt(1, "sí".encode(), DEFAULTS)
    own = dataclasses.replace(DEFAULTS, seed=1, max_bytes=2, stop=(b"\n",))
    assert two == prompts.Prompt(2, b"\xff\x00", own, "b")
    own = {"scratchpad_threshold": 2, "top_k": 3, "top_p": 0.5, "stop": (b"a", "é".encode()), "valid_utf8": True}
    assert three == prompts.Prompt(3, b"", dataclasses.replace(DEFAULTS, seed=7, **own), 7)
    own = {"logprobs": 2, "min_p": 0.25, "repetition_penalty": 2}
    assert four == prompts.Prompt(4, b"no line end", dataclasses.replace(DEFAULTS, seed=8, **own))


def test_a_lines_dial_takes_the_place_of_the_commands(tmp_path):
    path = write(tmp_path, {"prompt": "a", "rate": 0.5}, {"prompt": "b", "threshold": 1.0}, {"prompt": "c"})

    def dials(**dial):
        found = [p.options for p in read(path, dataclasses.replace(DEFAULTS, **dial))]
        return [(options.scratchpad_threshold, options.rate) for options in found]

    assert dials(scratchpad_threshold=3.0) == [(None, 0.5), (1.0, None), (3.0, None)]
    assert dials(rate=0.25) == [(None, 0.5), (1.0, None), (None, 0.25)]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b"\n", "it is blank: remove it"),
        (b" \r\n", "it is blank: remove it"),
        (b"prompt\n", "it is no JSON"),
        (b'{"prompt": "torn', "it is no JSON"),
        (b'{"prompt": "\xff"}\n', "it is no UTF-8 (byte 12)"),
        (b'["prompt"]\n', "Expected object, got array"),
        ({}, "wanted one of the fields prompt, a text, and prompt_base64, any bytes"),
        ({"prompt": "a", "prompt_base64": ""}, "wanted one of the fields prompt"),
        ({"prompt": 1}, "prompt: Expected str, got int"),
        ({"prompt": "\ud800"}, "prompt: character 0 is half of a surrogate pair, which is no text: use prompt_base64"),
        ({"prompt_base64": "a?"}, "prompt_base64: it is no base64"),
        ({"prompt_base64": "é"}, "prompt_base64: it is no base64"),
        ({"prompt": "a", "temprature": 1}, "no field 'temprature'; the nearest is 'temperature'"),
        ({"prompt": "a", "patch_threshold": 1}, "no field 'patch_threshold'"),
        ({"prompt": "a", "id": [1]}, "id: Expected"),
        ({"prompt": "a", "max_bytes": -1}, "max_bytes: Expected int >= 0"),
        ({"prompt": "a", "max_bytes": 2.5}, "max_bytes: Expected int, got float"),
        ({"prompt": "a", "max_bytes": None}, "max_bytes: Expected int, got null"),
        ({"prompt": "a", "temperature": -1}, "temperature = -1 must be a number 0 or above"),
        ({"prompt": "a", "stop": [1]}, "stop[0]: Expected str, got int"),
        ({"prompt": "a", "stop": ""}, "holds an empty string"),
        ({"prompt": "a", "threshold": 1e31}, "threshold = 1e+31 must be a number from -1e+30"),
        ({"prompt": "a", "threshold": float("nan")}, "NaN is no number of JSON"),
        ({"prompt": "a", "threshold": 1, "rate": 0.1}, "rate = 0.1 steers the threshold that threshold = 1 sets"),
        ({"prompt": "a", "logprobs": 21}, "logprobs = 21 must be a whole number from 0 to 20"),
    ],
    ids=repr,
)
def test_a_bad_line_is_named_with_its_field(tmp_path, line, words):
    path = write(tmp_path, {"prompt": "fine"}, line)
    with pytest.raises(UserError) as caught:
        prompts.survey(path, DEFAULTS)
    assert str(caught.value).startswith(f"{path}, line 2: ") and words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_empty_file_is_refused(tmp_path):
    with pytest.raises(UserError, match="is empty: wanted a JSON object on each line"):
        prompts.survey(write(tmp_path), DEFAULTS)


def test_a_line_that_is_too_long_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(prompts, "_LONGEST_LINE", 64)
    path = write(tmp_path, {"prompt": "a" * 30}, {"prompt": "a" * 80}, {"prompt": "c"})
    with pytest.raises(UserError, match="line 2: it is longer than"):
        prompts.survey(path, DEFAULTS)


def test_a_survey_counts_lines_and_finds_the_first_dial(tmp_path):
    path = write(tmp_path, {"prompt": "a"}, {"prompt": "b", "rate": 0.5}, {"prompt": "c", "threshold": 1.0})
    seen = prompts.survey(path, DEFAULTS)
    assert seen.count == 3 and seen.dialled == (2, dataclasses.replace(DEFAULTS, seed=6, rate=0.5))
    assert prompts.survey(write(tmp_path, {"prompt": "a"}), DEFAULTS).dialled is None
    assert prompts.survey(path, dataclasses.replace(DEFAULTS, seed=9)).sha256 != seen.sha256


def test_a_dial_that_the_model_lacks_is_named_before_anything_is_written(tmp_path):
    path = write(tmp_path, {"prompt": "a"}, {"prompt": "b", "threshold": 1.0})
    engine = Engine(language_model().override({"trigger.kind": "none"}), rows=3)
    seen = prompts.survey(path, DEFAULTS)
    with pytest.raises(UserError, match=r"line 2: threshold = 1.0: trigger.kind = 'none' of this model asks no thresh"):
        continuation.continue_file(engine, path, tmp_path / "out.jsonl", seen, DEFAULTS, {})
    assert list(tmp_path.iterdir()) == [path]


TEXTS = [b"the ", b"", b"\xff\xc3(", b"the ", some_bytes(75), b"a", b"caf\xc3"]


def prompts_of(texts, **options):
    every = dataclasses.replace(DEFAULTS, **options)
    return [prompts.Prompt(k + 1, x, dataclasses.replace(every, seed=every.seed + k)) for k, x in enumerate(texts)]


def results_of(row_prompts, rows=3, share=0.0):
    """Results by number."""
    steps = prompts.continued(Engine(language_model(), rows, share), row_prompts)
    return dict(row for ended, _ in steps for row in ended)


def data(result):
    return base64.b64decode(result["text_base64"]) if "text_base64" in result else result["text"].encode()


@pytest.fixture(scope="module")
def together():
    return results_of(prompts_of(TEXTS))


def test_rows_are_what_generate_makes_of_a_list(together):
    # Three at a time, whose program is compiled already.
    lm, seed = language_model(), DEFAULTS.seed
    wanted = [made for k in (0, 3) for made in lm.generate(TEXTS[k : k + 3], 6, seed + k, temperature=1.0)]
    assert [data(together[k + 1]) for k in range(6)] == wanted
    assert [together[k + 1]["bytes"] for k in range(6)] == [len(x) for x in wanted]
    assert [together[k + 1]["seed"] for k in range(len(TEXTS))] == [5 + k for k in range(len(TEXTS))]
    assert any("text_base64" in row for row in together.values())


@pytest.mark.parametrize(("rows", "share"), [(3, 1.0), (1, 0.0)])
def test_rows_depend_neither_on_places_nor_on_the_share(together, rows, share):
    assert results_of(prompts_of(TEXTS), rows, share) == together


def test_a_row_does_not_depend_on_the_others(together):
    for_itself = prompts_of(TEXTS)[2:3]
    assert results_of(for_itself) == {3: together[3]}
    assert results_of(prompts_of(TEXTS)[::-1]) == together


def test_a_result_counts_what_the_trunk_did():
    lm = language_model()
    (row,) = results_of([prompts.Prompt(1, b"ab", Options(max_bytes=9, logprobs=2), "name")]).values()
    made = list(lm.stream(b"ab", 9))
    assert row["id"] == "name" and row["bytes"] == 9 and row["finish"] == "length"
    assert row["commits"] == sum(byte.commit for byte in made)
    assert row["scratchpads"] == sum(byte.scratchpad for byte in made)
    for entry, byte in zip(row["logprobs"], made, strict=True):
        assert entry["byte"] == byte.value
        assert entry["log_probability"] == pytest.approx(byte.log_probability, abs=1e-5)
        assert len(entry["likeliest"]) == 2 and entry["likeliest"][0][1] >= entry["likeliest"][1][1]


def test_the_speed_is_that_of_what_came_after_compilation():
    wanted = {"seconds": 30.0, "seconds_to_first": 10.0, "bytes_per_second": 5.0}
    assert prompts.speed(100.0, [(110.0, 32), (130.0, 132)]) == wanted
    assert prompts.speed(100.0, [(110.0, 32), (116.0, 32)])["bytes_per_second"] == 2.0


def test_nothing_more_than_asked_for_is_written():
    rows = results_of(prompts_of([b"a", b"b", b"c", b"d", b"e"], max_bytes=0))
    assert all((row["text"], row["finish"], row["bytes"]) == ("", "length", 0) for row in rows.values())
    assert sorted(rows) == [1, 2, 3, 4, 5]


def test_a_character_that_the_budget_cannot_complete_ends_the_row_by_length():
    row = prompts.Prompt(1, b"\xe2", Options(max_bytes=1, valid_utf8=True))
    (result,) = results_of([row]).values()
    assert (result["text"], result["finish"], result["bytes"]) == ("", "length", 0)
    row = prompts.Prompt(1, b"\xe2", Options(max_bytes=2, valid_utf8=True))
    (result,) = results_of([row]).values()
    assert len((b"\xe2" + data(result)).decode()) == 1
