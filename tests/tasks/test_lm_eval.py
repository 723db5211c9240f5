"""Models of this package as lm-evaluation-harness asks them."""

import json
import math
from types import SimpleNamespace

import pytest

from scratchpatch.errors import UserError
from scratchpatch.interop.export import export
from scratchpatch.tasks import requests as requests_lib
from scratchpatch.tasks.task import Setting
from tests.tasks.models import WINDOW, language_model

harness = pytest.importorskip("lm_eval", reason="the package lm_eval is not installed (extra lm_eval)")


def model(folder=None, **options):
    from scratchpatch.tasks.lm_eval import ScratchpatchLM

    return ScratchpatchLM(setting=Setting(language_model(), folder=folder), **options)


def instances(*arguments):
    return [SimpleNamespace(args=each) for each in arguments]


def score(document, start=0):
    """Log-likelihood in nats of the bytes of a document from `start` on."""
    return language_model().score(document)[start:].sum() * math.log(2)


def test_likelihoods_are_those_of_score_also_of_an_empty_context():
    asked = instances(("", "start"), ("some context", " end"), ("beyond the window " * 4, "far"), ("a", ""))
    answers = model().loglikelihood(asked)
    for request, (nats, best) in zip(asked, answers, strict=True):
        context, continuation = (text.encode() for text in request.args)
        assert nats == pytest.approx(score(context + continuation, len(context)), abs=1e-4)
        assert type(nats) is float and type(best) is bool
    assert answers[3] == (0.0, True)


def test_greedy_bytes_are_the_likeliest():
    characters = [chr(code) for code in range(128)]
    contexts = "abcdefgh"
    answers = model().loglikelihood(instances(*((context, each) for context in contexts for each in characters)))
    rows = [answers[k : k + 128] for k in range(0, len(answers), 128)]
    # Where the likeliest byte is no character, none of these is.
    greedy = [row for row in rows if any(best for _, best in row)]
    assert greedy
    for row in greedy:
        assert [best for _, best in row] == [nats == max(row)[0] for nats, _ in row]


def test_the_space_may_end_the_prompt():
    (given,) = model().loglikelihood(instances(("a", " end")))
    (moved,) = model(space="prompt_end").loglikelihood(instances(("a", " end")))
    assert given[0] == pytest.approx(score(b"a end", 1), abs=1e-4)
    assert moved[0] == pytest.approx(score(b"a end", 2), abs=1e-4)
    # Where there is nothing but spaces, they are what is asked for.
    spaces = model(space="prompt_end").loglikelihood(instances(("a", "  ")))
    assert spaces[0][0] == pytest.approx(score(b"a  ", 1), abs=1e-4)


def test_rolling_scores_each_byte_once():
    texts = ["", "short", "d\u00e9j\u00e0 vu " * 9]
    answers = model().loglikelihood_rolling(instances(*((text,) for text in texts)))
    assert answers[0] == 0
    assert answers == pytest.approx([score(text.encode()) for text in texts], abs=1e-3)
    about = model().get_model_info()
    assert (about["window"], about["rolling_stride"], about["prefix"]) == (WINDOW, WINDOW // 2, "BOS")


def test_tokens_of_a_generation_are_bytes():
    prompts = ["ab", "b", "c", ""]
    written = [data.decode("utf-8", "replace") for data in language_model().generate([*map(str.encode, prompts)], 12)]
    adapter = model(bytes_per_token=3)
    for said in ({"max_gen_toks": 4}, {"max_new_tokens": 4, "until": [""], "do_sample": False}):
        assert adapter.generate_until(instances(*((prompt, said) for prompt in prompts))) == written


def test_samples_of_a_prompt_differ_and_are_repeated_by_the_seed():
    asked = instances(*[("ab", {"max_gen_toks": 8, "do_sample": True, "top_k": 40})] * 4)
    written = model(seed=5).generate_until(asked)
    assert len(set(written)) == 4 and model(seed=5).generate_until(asked) == written
    assert model(seed=6).generate_until(asked)[:3] == written[1:]
    stop = next(character for character in written[0] if character.isascii())
    stopped = instances(*[("ab", {**asked[0].args[1], "until": stop})] * 4)
    assert model(seed=5).generate_until(stopped) == [text.partition(stop)[0] for text in written]


def test_answers_go_to_the_harness_s_cache(tmp_path):
    adapter = model()
    cached = harness.api.model.CachingLM(adapter, str(tmp_path / "cache.db"))
    asked = instances(("a", "b"), ("c", "d"))
    answers = cached.loglikelihood(asked)
    assert [tuple(cached.dbdict[key]) for key in cached.dbdict] and len(cached.dbdict) == 2
    assert [tuple(answer) for answer in cached.loglikelihood(asked)] == answers


def test_answers_that_are_stored_are_not_asked_again(tmp_path, monkeypatch):
    asked = instances(("a", "b"), ("c", "d"))
    answers = model(tmp_path).loglikelihood(asked)
    monkeypatch.setattr(requests_lib, "answer", None)
    assert model(tmp_path).loglikelihood(asked) == answers


def test_processes_look_like_one():
    assert (model().rank, model().world_size) == (0, 1)


def test_a_folder_is_loaded_with_other_fields(tmp_path):
    export(language_model(), tmp_path / "model")
    adapter = harness.api.registry.get_model("scratchpatch").create_from_arg_string(
        f"workdir={tmp_path}/model,trigger.threshold=0.5", {"batch_size": 1, "device": "cuda:0"}
    )
    assert adapter.get_model_info()["step"] == 7
    (answer,) = adapter.loglikelihood(instances(("some context", " end")))
    lm = language_model().override({"trigger.threshold": 0.5})
    assert answer[0] == pytest.approx(lm.score(b"some context end")[12:].sum() * math.log(2), abs=1e-4)
    assert json.dumps(adapter.get_model_info())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "needs --model_args workdir=DIR"),
        ({"workdir": "none"}, "none"),
        ({"space": "front"}, "space = 'front' must be as_given or prompt_end"),
        ({"bytes_per_token": 0}, "bytes_per_token = 0 must be a whole number"),
    ],
)
def test_what_cannot_be_loaded(options, said):
    from scratchpatch.tasks.lm_eval import ScratchpatchLM

    with pytest.raises(UserError, match=said):
        ScratchpatchLM(**options)
