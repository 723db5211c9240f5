"""CUTE: prompts, what counts as an answer, and files that cannot be used."""

import pytest

from scratchpatch.errors import UserError
from scratchpatch.tasks import cute, cute_prompts
from scratchpatch.tasks.cute import Cute, quoted
from scratchpatch.tasks.task import Setting
from tests.tasks.models import language_model

# A file of prompts in the form of the repository's, with continued lines.
PROMPTS = """# prompts.py
PROMPTS = {
    "spell": 'Spell it:\\n\\
            1. Spell "ab". Answer: "a b"\\n\\
            Question: Spell "{}".',
    "del_word": 'Question: Delete "{}" in "{}".',
}
"""


@pytest.fixture
def folder(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "spell.tsv").write_text("input1\tlabel\nthe\tt h e\nox\to x\n")
    (data / "del_word.tsv").write_text("input1\tinput2\tlabel\nsmiled\tThe octopus smiled.\tThe octopus.\n")
    return data


def task(folder, **options) -> Cute:
    return Cute(source=str(folder), tasks=("spell", "del_word"), **options)


@pytest.mark.parametrize("name", cute.INPUTS)
def test_the_examples_of_our_prompts_are_right(name):
    """Computed anew from their inputs, where a rule says the answer."""
    for *inputs, answer in cute_prompts.EXAMPLES[name]:
        kind, _, unit = name.partition("_")
        split = (lambda text: list(text)) if unit == "char" else (lambda text: text.removesuffix(".").split(" "))
        units = split(inputs[-1])
        if name == "spell":
            assert answer == " ".join(inputs[0])
        elif name == "spell_inverse":
            assert " ".join(answer) == inputs[0]
        elif name in ("orth", "sem"):
            assert answer in inputs[1:]
        elif kind == "contains":
            assert answer == ("Yes" if inputs[0] in units else "No")
        elif kind == "ins":
            assert split(answer) == [part for each in units for part in [each, *[inputs[0]] * (each == inputs[1])]]
        elif kind == "del":
            assert split(answer) == [each for each in units if each != inputs[0]]
        elif kind == "sub":
            assert split(answer) == [inputs[1] if each == inputs[0] else each for each in units]
        else:
            other = {inputs[0]: inputs[1], inputs[1]: inputs[0]}
            assert split(answer) == [other.get(each, each) for each in units]
    assert len(cute_prompts.EXAMPLES[name]) == 4


def test_our_prompt_has_four_examples_and_an_open_quote():
    prompt = cute_prompts.base("del_char", ["t", "the"])
    assert prompt.endswith('\nTake every "p" out of "apple": "ale"\nTake every "t" out of "the": "')
    assert prompt.count("\n") == 4


def test_the_published_prompt_comes_from_its_file(folder):
    (folder.parent / "prompts.py").write_text(PROMPTS)
    first, second, third = task(folder, prompt="published").items()
    text = 'Spell it:\n            1. Spell "ab". Answer: "a b"\n            Question: Spell "the". Answer: "'
    assert first.requests[0].prompt.decode() == text
    assert first.requests[0].options.stop == () and first.requests[0].options.max_bytes == 400
    assert second.data == ("spell", "o x")
    assert third.requests[0].prompt.decode() == 'Question: Delete "smiled" in "The octopus smiled.". Answer: "'


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (b'1. Answer: "x"\nQuestion: "y". Answer: "t h e" and "more"', "t h e"),
        (b'Answer: " t h e ', "t h e"),
        (b'Answer: "a"\nNow another. Answer: "b"', "b"),
        (b'Answer: "a"\nNow another. Answer: none', ""),
        (b"nothing", ""),
        (b'Answer: "\xff"', "\ufffd"),
    ],
)
def test_the_answer_is_the_first_quoted_text_after_the_last_word_answer(text, answer):
    assert quoted(text) == answer


@pytest.mark.parametrize(
    ("index", "written", "right"),
    [
        (0, b"t h e", True),
        (0, b" t h e ", True),
        (0, b"T h e", False),
        (0, b"t h e.", False),
        (0, b"", False),
        (2, b"the OCTOPUS.", True),
        (2, b"the octopus", False),
    ],
)
def test_an_answer_must_match(folder, index, written, right):
    asked = task(folder)
    assert asked.grade(asked.items()[index], [written])["right"] is right
    (folder.parent / "prompts.py").write_text(PROMPTS)
    published = task(folder, prompt="published")
    assert published.grade(published.items()[index], [written + b'" and so on'])["right"] is right


def test_accuracy_is_the_mean_of_tasks(folder):
    asked = task(folder)
    answers = (b"t h e", b"nothing", b"The octopus.")
    numbers = asked.summary(
        [asked.grade(*each) for each in zip(asked.items(), ([a] for a in answers), strict=True)], None
    )
    assert numbers["tasks"]["spell"] == {"accuracy": 0.5, "standard_error": 0.5, "chance": 0.0, "items": 2}
    assert numbers["accuracy"] == 0.75 and numbers["standard_error"] is None


def test_a_model_is_measured(folder):
    numbers = task(folder, tokens=2).run(Setting(language_model()))
    assert numbers["items"] == 3 and numbers["prompt"] == "base"
    assert numbers["tasks"].keys() == {"spell", "del_word"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "line 1: no column 'input1'; wanted input1, label"),
        ("input1\tlabels\na\ta\n", "line 1: no column 'label'"),
        ("input1\tlabel\na\ta\nb\n", "line 3: 1 values, wanted 2, with tabs between them: 'b'"),
        ("input1\tlabel\na\t\n", "line 2: the label is empty"),
        ("input1\tlabel\n", "has no rows"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(folder, text, said):
    (folder / "spell.tsv").write_text(text)
    with pytest.raises(UserError, match=f"spell.tsv.*{said}"):
        task(folder).protocol()


def test_what_is_missing_is_named(folder):
    with pytest.raises(UserError, match="spell_inverse.tsv does not exist.*leave spell_inverse out by cute.tasks"):
        Cute(source=str(folder)).protocol()
    with pytest.raises(UserError, match="there is no 'spel'; the tasks are spell, "):
        Cute(source=str(folder), tasks=("spel",)).protocol()
    with pytest.raises(UserError, match="no prompts.py .* name it by cute.prompts, or use cute.prompt=base"):
        task(folder, prompt="published").protocol()
    with pytest.raises(UserError, match="name the folder data/"):
        Cute().protocol()


@pytest.mark.parametrize("text", ["", "PROMPTS = 3", "PROMPTS = {'spell': '{}'}", "PROMPTS = open('x')", "("])
def test_a_file_that_has_no_prompts_is_refused(folder, text):
    (folder / "prompts.py").write_text(text)
    with pytest.raises(UserError, match="prompts.py is not the prompts.py of the CUTE repository"):
        task(folder, prompt="published").protocol()
