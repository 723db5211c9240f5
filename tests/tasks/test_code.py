"""Programs that a model completes: files of problems, pass@k, and what is run."""

import itertools
import math
import os
from pathlib import Path

import pytest

from scratchpatch.errors import UserError
from scratchpatch.tasks import code
from scratchpatch.tasks.code import Code, pass_at_k
from scratchpatch.tasks.sandbox import run as sandbox
from scratchpatch.tasks.task import Setting
from tests.tasks.models import language_model

needs_namespaces = pytest.mark.skipif(bool(sandbox._refusal()), reason=f"no namespaces here: {sandbox._refusal()}")
DATA = Path(os.environ.get("SCRATCHPATCH_DATA", "/nowhere"))


def problem(number: int, name: str, solution: str, test: str) -> dict[str, str]:
    return {
        "task_id": f"Tiny/{number}",
        "prompt": f'def {name}(x):\n    """ What {name} does. """\n',
        "entry_point": name,
        "canonical_solution": solution,
        "test": f"METADATA = {{}}\n\ndef check(candidate):\n    assert {test}\n",
    }


PROBLEMS = (
    problem(1, "double", "    return 2 * x\n", "candidate(3) == 6"),
    problem(2, "negate", "    return -x\n", "candidate(3) == -3"),
    problem(3, "root", "    import math\n\n    return math.isqrt(x)\n", "candidate(17) == 4"),
)


@pytest.mark.parametrize("samples", [1, 2, 5])
def test_pass_at_k_is_the_share_of_draws_in_which_one_passes(samples):
    for passed, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        draws = list(itertools.combinations(range(samples), k))
        share = sum(any(sample < passed for sample in draw) for draw in draws) / len(draws)
        assert pass_at_k(samples, passed, k) == pytest.approx(share)


@needs_namespaces
def test_solutions_pass(file):
    """What a perfect model would get; all of HumanEval's pass, and 959 of 974 of mxeval's MBPP."""
    task = Code(source=file(*PROBLEMS), solutions=True)
    assert task.protocol()["completions"] == "the files' own solutions"
    numbers = task.run(Setting(language_model()))
    assert numbers["pass@1"] == 1.0 and numbers["endings"] == {"passed": 3}


@needs_namespaces
@pytest.mark.skipif(not DATA.is_dir(), reason="there is no $SCRATCHPATCH_DATA")
@pytest.mark.parametrize("name", ["humaneval/HumanEval.jsonl.gz", "mbpp/mbpp_release_v1.jsonl.gz"])
def test_solutions_of_published_problems_pass(name):
    numbers = Code(source=str(DATA / name), solutions=True).run(Setting(language_model(), limit=6))
    assert numbers["pass@1"] == 1.0


@needs_namespaces
def test_completions_are_run(file):
    task = Code(source=file(*PROBLEMS), samples=3, temperature=0.5, k=(1, 2))
    answers = [
        [b"    return 2 * x", b"    return x + x\n", b"    return x"],
        [b"    return -x", b"    import os\n    os._exit(0)", b"    return \xff"],
        [b"    return 5", b"", b"    return 5"],
    ]
    grades = task.grades(task.items(), answers)
    assert [grade["passed"] for grade in grades] == [2, 1, 0]
    assert grades[0]["reasons"] == ["", "", "AssertionError:"]
    assert grades[1]["reasons"][1] == "it ended early, with exit code 0"
    assert grades[1]["completions"][2] == "    return \ufffd"
    numbers = task.summary(grades, None)
    assert numbers["pass@1"] == pytest.approx((2 / 3 + 1 / 3) / 3)
    assert numbers["pass@2"] == pytest.approx((1 + 2 / 3) / 3)
    assert numbers["pass@1_standard_error"] == pytest.approx(1 / 3 / math.sqrt(3))
    # A body that is a docstring returns None.
    endings = {"passed": 3, "AssertionError": 4, "it ended early, with exit code 0": 1, "SyntaxError": 1}
    assert numbers["endings"] == endings
    assert task.grade(task.items()[0], answers[0]) == grades[0]


@needs_namespaces
def test_a_model_is_measured(file):
    task = Code(source=file(*PROBLEMS), samples=2, temperature=1.0, tokens=1, k=(1, 2))
    numbers = task.run(Setting(language_model(), limit=2))
    assert numbers["items"] == 2 and numbers["programs"] == 4
    assert 0 <= numbers["pass@1"] <= numbers["pass@2"] <= 1


def test_prompts_have_shots_and_each_sample_its_seed(file):
    task = Code(source=file(*PROBLEMS), samples=2, temperature=0.5, seed=7, problems="2-3", shots=1, tokens=10)
    items = task.items()
    assert [item.data["task_id"] for item in items] == ["Tiny/2", "Tiny/3"]
    first, second = items[0].requests
    shot = PROBLEMS[0]["prompt"] + PROBLEMS[0]["canonical_solution"] + "\n\n"
    assert first.prompt.decode() == shot + PROBLEMS[1]["prompt"] == second.prompt.decode()
    assert (first.options.seed, second.options.seed) == (7, 8)
    assert first.options.max_bytes == 40 and first.options.stop == code._STOP


def without(field: str) -> dict[str, str]:
    return {name: value for name, value in PROBLEMS[0].items() if name != field}


@pytest.mark.parametrize(
    ("problems", "said"),
    [
        ((PROBLEMS[0], without("test")), "line 2: Object missing required field test"),
        ((PROBLEMS[0] | {"entry_point": "f(); g"},), "line 1: .*entry_point"),
        ((PROBLEMS[0] | {"prompt": ""},), "line 1: .*prompt"),
        ((PROBLEMS[0] | {"prompt": 3},), "line 1: Expected str, got int - at .*prompt"),
        ((), "is empty"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(file, problems, said):
    with pytest.raises(UserError, match=f"lines.jsonl.*{said}"):
        Code(source=file(*problems), unsafe_execution=True).protocol()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"samples": 5}, "code.samples = 5 at temperature 0 are all the same"),
        ({"k": (1, 10)}, r"code.k = \(1, 10\) must be from 1 to code.samples = 1"),
        ({"k": ()}, r"code.k = \(\)"),
        ({"temperature": -1.0}, "temperature = -1.0 must be"),
        ({"problems": "11"}, "code.problems = '11' must be two numbers"),
        ({"problems": "11-12"}, "code.problems = 11-12: no task_id"),
        ({"shots": 1}, "code.shots = 1, but .* has 0 problems that are not asked"),
    ],
)
def test_options_that_cannot_be_used_are_named(file, options, said):
    with pytest.raises(UserError, match=said):
        Code(source=file(*PROBLEMS), unsafe_execution=True, **options).protocol()


def test_shots_and_solutions_need_the_files_own(file):
    source = file(without("canonical_solution"), *PROBLEMS[1:])
    for options in ({"shots": 1, "problems": "2-3"}, {"solutions": True}):
        with pytest.raises(UserError, match="problem Tiny/1 has no field canonical_solution"):
            Code(source=source, unsafe_execution=True, **options).protocol()
    assert Code(source=source, unsafe_execution=True).protocol()["namespaces"] is False


def test_a_machine_without_namespaces_is_refused_before_anything_is_asked(file, monkeypatch):
    def refuse(namespaces):
        raise UserError("programs cannot be shut in on this machine: add --unsafe_execution")

    monkeypatch.setattr(sandbox, "check", refuse)
    with pytest.raises(UserError, match="add --unsafe_execution"):
        Code(source=file(*PROBLEMS)).protocol()


def test_programs_run_without_namespaces_where_that_is_asked(file):
    task = Code(source=file(*PROBLEMS), solutions=True, unsafe_execution=True)
    assert task.run(Setting(language_model()))["pass@1"] == 1.0
