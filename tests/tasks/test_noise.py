"""What noise costs, on questions and on text."""

import json
import math

import numpy as np
import pytest

from scratchpatch.errors import UserError
from scratchpatch.tasks import names, noises
from scratchpatch.tasks.choice import Choice
from scratchpatch.tasks.noise import Noise
from scratchpatch.tasks.requests import Likelihood, Likely
from scratchpatch.tasks.task import Setting
from tests.tasks.models import language_model

ATE = {"query": "Question: She ate", "choices": ["the cup", "the cake"], "gold": 1}
SANG = {"query": "He sang a", "choices": ["song", "dog"], "gold": 0}
THIN = {"sentence": "It broke as the _ was thin.", "option1": "cup", "option2": "table", "answer": "1"}


@pytest.fixture
def file(tmp_path):
    def write(*rows):
        path = tmp_path / "questions.jsonl"
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
        return str(path)

    return write


def asked(task, name, number=0):
    """(context, continuation) of each answer of a spelling."""
    requests = task.items()[number].data[name].conditional
    return [(request.context.decode(), request.continuation.decode()) for request in requests]


def test_noise_is_on_the_question_and_not_on_what_the_template_adds(file):
    task = Noise(file(ATE), kinds=("upper_case",))
    assert asked(task, "clean")[0] == ("Question: She ate\nAnswer: ", "the cup")
    assert asked(task, "upper_case.prompt")[0] == ("QUESTION: SHE ATE\nAnswer: ", "the cup")
    assert asked(task, "upper_case.completion")[0] == ("Question: She ate\nAnswer: ", "THE CUP")
    assert asked(task, "upper_case.both")[0] == ("QUESTION: SHE ATE\nAnswer: ", "THE CUP")


def test_answers_belong_to_the_prompt_of_an_ending(file):
    task = Noise(file(THIN), kinds=("upper_case",))
    assert asked(task, "upper_case.prompt")[1] == ("IT BROKE AS THE TABLE ", "was thin.")
    assert asked(task, "upper_case.completion")[1] == ("It broke as the table ", "WAS THIN.")


def test_examples_and_letters_are_clean(file):
    path = file(ATE, SANG)
    task = Noise(path, kinds=("upper_case",), shots=1, shots_from=path, form="multiple_choice")
    prompt = "He sang a\nA. song\nB. dog\nAnswer: A\n\nQUESTION: SHE ATE\nA. THE CUP\nB. THE CAKE\nAnswer: "
    assert asked(task, "upper_case.both") == [(prompt, "A"), (prompt, "B")]


def test_requests_that_several_spellings_share_are_asked_once(file):
    (item,) = Noise(file(SANG), kinds=("upper_case", "ant_speak"), where=("prompt", "completion", "both")).items()
    # Prompts: clean and two noisy ones; answers: two, clean and twice noisy; noisy prompts stand with their own noise.
    assert len(item.requests) == len(set(item.requests)) == 2 * (1 + 2 * 3) + 2 * 3


def test_the_clean_spelling_has_the_numbers_of_choice(file):
    path = file(ATE, SANG)
    setting = Setting(language_model())
    noise = Noise(path, kinds=("drop", "upper_case"), where=("completion",)).run(setting)
    clean = Choice(path).run(setting)
    for name, accuracy in clean["accuracy"].items():
        rows = noise[name]
        assert list(rows) == ["clean", "drop.completion", "upper_case.completion", "mean"]
        assert rows["clean"] == {"value": accuracy["mean"], "stderr": accuracy["stderr"], "gap": 0, "gap_stderr": 0}
        values = [rows[each]["value"] for each in ("drop.completion", "upper_case.completion")]
        assert rows["mean"]["value"] == pytest.approx(np.mean(values))
        assert rows["mean"]["gap"] == pytest.approx(np.mean(values) - accuracy["mean"])
    assert noise["chance"] == clean["chance"]


def test_gaps_have_the_error_of_the_paired_difference(file):
    task = Noise(file(ATE, SANG), kinds=("drop",), where=("prompt",))
    items = task.items()

    def graded(nats_of_clean, nats_of_noise):
        def answer(number, request):
            nats = nats_of_clean if request in items[number].data["clean"].conditional else nats_of_noise
            return Likely(nats[number][request.continuation in (b"the cake", b"dog")], False, 1, 9)

        return [task.grade(item, [answer(k, request) for request in item.requests]) for k, item in enumerate(items)]

    # Right and right, then right and wrong.
    rows = task.summary(graded([(2, 1), (1, 2)], [(2, 1), (2, 1)]), Setting(language_model()))["raw"]
    assert (rows["clean"]["value"], rows["drop.prompt"]["value"], rows["drop.prompt"]["gap"]) == (1, 0.5, -0.5)
    assert rows["drop.prompt"]["gap_stderr"] == pytest.approx(0.5)


def test_halves_of_documents(tmp_path):
    lm = language_model()
    texts = ["first document", "x", "zweites Dökument, länger", "the third"]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text)
    task = Noise(f"text:{tmp_path}/*.txt", kinds=("upper_case",), where=("prompt", "both"), bytes=20)
    assert task.items()[1].data["clean"] == Likelihood(b"zweites D", "ökument, l".encode())
    rows = task.run(Setting(lm))["bpb"]
    nats = size = 0
    per_document = []
    for text in (texts[0], "zweites Dökument, l", texts[3]):
        half = len(text) // 2
        first, second = text[:half].upper().encode(), text[half:].encode()
        own = -lm.score(first + second)[len(first) :].sum()
        per_document.append((own, len(second)))
        nats, size = nats + own, size + len(second)
    assert rows["upper_case.prompt"]["value"] == pytest.approx(nats / size, abs=1e-4)
    residuals = [own - nats / size * count for own, count in per_document]
    stderr = np.std(residuals, ddof=1) / math.sqrt(3) / (size / 3)
    assert rows["upper_case.prompt"]["stderr"] == pytest.approx(stderr, abs=1e-4)
    gap = rows["upper_case.prompt"]["value"] - rows["clean"]["value"]
    assert rows["upper_case.prompt"]["gap"] == pytest.approx(gap)


def test_bytes_that_are_no_text_stay(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"ab\xffcd\xfeef")
    (item,) = Noise(f"text:{tmp_path}/a.txt", kinds=("upper_case",), where=("both",)).items()
    assert item.data["upper_case.both"] == Likelihood(b"AB\xffC", b"D\xfeEF")


@pytest.mark.parametrize(
    ("source", "fields", "said"),
    [
        ("", {}, "noise needs a file: write --task=noise:FILE"),
        ("text:none/*.txt", {}, "none"),
        ("stdlib:prose", {"bytes": 1}, "noise.bytes = 1 must be 2 or more"),
    ],
)
def test_what_cannot_be_asked(source, fields, said):
    with pytest.raises(UserError, match=said):
        Noise(source, **fields).protocol()


def test_kinds_are_joined_by_plus_signs():
    (task,) = names.parse("noise:x", ["noise.kinds=drop+repeat", "noise.where=both"])
    assert (task.kinds, task.where) == (("drop", "repeat"), ("both",))
    with pytest.raises(UserError, match="noise.kinds=dropp"):
        names.parse("noise:x", ["noise.kinds=dropp"])
    assert set(Noise.kinds) == set(noises._KINDS)
