"""Programs that a model completes, judged by running them: HumanEval, MBPP, and files like theirs."""

import collections
import dataclasses
import functools
import math
import re
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, NotRequired, TypedDict

import msgspec

from scratchpatch import json_files
from scratchpatch.errors import UserError
from scratchpatch.inference.options import Options
from scratchpatch.tasks import json_lines
from scratchpatch.tasks.items import Item, ItemTask, checksum
from scratchpatch.tasks.ratios import ratio
from scratchpatch.tasks.requests import Answer, Generation
from scratchpatch.tasks.sandbox import run as sandbox
from scratchpatch.tasks.task import Setting

# Where a completion ends: what begins at the margin is no longer the function's body.
_STOP = (b"\nclass", b"\ndef", b"\n#", b"\nif", b"\nprint")
_RANGE = re.compile(r"(\d+)-(\d+)")
_LAST_NUMBER = re.compile(r"(\d+)\D*$")
_Name = Annotated[str, msgspec.Meta(pattern=r"^[^\W\d]\w*$")]
_Full = Annotated[str, msgspec.Meta(min_length=1)]


class _Problem(TypedDict):
    task_id: _Full
    prompt: _Full
    entry_point: _Name
    test: _Full
    canonical_solution: NotRequired[str]


@dataclasses.dataclass(frozen=True)
class Code(ItemTask):
    """Programs completed by the model, and run: pass@k of HumanEval, MBPP and the like.

    --task=code:FILE of JSON lines (plain or compressed) with task_id, prompt, entry_point, test and, if there is one,
    canonical_solution: HumanEval as published, and MBPP as in mxeval, where a prompt is a function's head with its
    docstring. The program that is run is the prompt, the completion, the test, and check(ENTRY_POINT). It passes if it
    comes to its end, in processes of its own without a network and with limits of time, memory, processes and files.

      code.samples            completions of each problem, n of the unbiased estimator (arXiv 2107.03374)
      code.k                  of pass@k, such as 1+10; n or less each
      code.temperature        of sampling; 0: the likeliest byte
      code.top_p              share of the probability that may be sampled
      code.seed               of the first sample; the next one's is one more
      code.tokens             the most tokens of a completion by the usual protocols
      code.bytes_per_token    a completion has at most tokens x bytes_per_token bytes
      code.problems           such as 11-510: those whose task_id ends in these numbers (MBPP's test split); empty: all
      code.shots              solved problems before the prompt: the first in the file that are not asked
      code.seconds            of wall-clock time that a program may run
      code.cpu_seconds        of CPU time of each of its processes
      code.memory_mib         of address space of each of its processes
      code.solutions          run the file's own solutions, not completions: what a perfect model would get here
      code.unsafe_execution   run programs without namespaces where the machine has none (the flag --unsafe_execution):
                              they can then read, write and kill what you can
    """

    name: ClassVar[str] = "code"
    samples: Annotated[int, msgspec.Meta(ge=1, le=10000)] = 1
    k: tuple[Annotated[int, msgspec.Meta(ge=1)], ...] = (1,)
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    tokens: Annotated[int, msgspec.Meta(ge=1)] = 1024
    bytes_per_token: Annotated[float, msgspec.Meta(gt=0)] = 4.0
    problems: str = ""
    shots: Annotated[int, msgspec.Meta(ge=0)] = 0
    seconds: Annotated[float, msgspec.Meta(gt=0)] = 15.0
    cpu_seconds: Annotated[int, msgspec.Meta(ge=1)] = 5
    memory_mib: Annotated[int, msgspec.Meta(ge=64)] = 512
    solutions: bool = False
    unsafe_execution: bool = False

    def protocol(self) -> dict[str, Any]:
        items = self.items()
        if self.samples > 1 and not self.temperature and not self.solutions:
            raise UserError(f"code.samples = {self.samples} at temperature 0 are all the same: set code.temperature")
        if not self.k or max(self.k) > self._count:
            raise UserError(f"code.k = {self.k} must be from 1 to code.samples = {self._count}: raise code.samples")
        self._options(0).check()
        sandbox.check(namespaces=not self.unsafe_execution)
        return {
            "prompts_checksum": checksum(items),
            "problems_checksum": json_files.seal([item.data for item in items]),
            "problems": self.problems or "all",
            "shots": self.shots,
            "samples": self._count,
            "k": list(self.k),
            "temperature": self.temperature,
            "top_p": self.top_p,
            "seeds": f"{self.seed} and up, one for each sample of a problem",
            "max_bytes": self._max_bytes,
            "max_bytes_from": f"{self.tokens} tokens at {self.bytes_per_token:g} bytes",
            "stop": [string.decode() for string in _STOP],
            "long_prompts": "read by their last bytes, at most the window and at least half of it",
            "completions": "the files' own solutions" if self.solutions else "the model's",
            "estimator": "unbiased, arXiv 2107.03374",
            "limits": dataclasses.asdict(self._limits),
            "namespaces": not self.unsafe_execution,
        }

    def items(self) -> Sequence[Item]:
        asked, others = self._chosen
        if len(others) < self.shots:
            problem = f"code.shots = {self.shots}, but {self.source} has {len(others)} problems that are not asked"
            raise UserError(f"{problem}: leave some out by code.problems, such as 11-510")
        for problem in others[: self.shots] + (asked if self.solutions else []):
            if "canonical_solution" not in problem:
                raise UserError(f"{self.source}: problem {problem['task_id']} has no field canonical_solution")
        shots = "".join(f"{each['prompt']}{each['canonical_solution']}\n\n" for each in others[: self.shots])
        options = [] if self.solutions else [self._options(sample) for sample in range(self.samples)]
        return [
            Item(tuple(Generation((shots + problem["prompt"]).encode(), each) for each in options), problem)
            for problem in asked
        ]

    def grade(self, item: Item, answers: list[Answer]) -> dict[str, Any]:
        return self.grades([item], [answers])[0]

    def grades(self, items: Sequence[Item], answers: Sequence[list[Answer]]) -> list[dict[str, Any]]:
        """Programs of all items, side by side; equal ones run once."""
        if self.solutions:
            answers = [[item.data["canonical_solution"].encode()] for item in items]
        programs = [[program(item.data, own) for own in each] for item, each in zip(items, answers, strict=True)]
        different = list(dict.fromkeys(each for row in programs for each in row))
        outcomes = dict(
            zip(different, sandbox.run_all(different, self._limits, not self.unsafe_execution), strict=True)
        )
        return [
            {
                "task_id": item.data["task_id"],
                "passed": sum(outcomes[each].passed for each in row),
                "samples": len(row),
                "reasons": [outcomes[each].reason for each in row],
                "completions": [own.decode(errors="replace") for own in each_answers],
            }
            for item, row, each_answers in zip(items, programs, answers, strict=True)
        ]

    def summary(self, grades: list[dict[str, Any]], setting: Setting) -> dict[str, Any]:
        numbers = {}
        for k in self.k:
            value, error = ratio([pass_at_k(grade["samples"], grade["passed"], k) for grade in grades])
            numbers |= {f"pass@{k}": value, f"pass@{k}_standard_error": error}
        # `AssertionError: 3 is not 4` counts as AssertionError.
        reasons = collections.Counter(
            reason.partition(":")[0] or "passed" for grade in grades for reason in grade["reasons"]
        )
        return numbers | {"programs": sum(reasons.values()), "endings": dict(reasons.most_common(12))}

    @functools.cached_property
    def _chosen(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Problems that are asked, and the others, in the order of the file."""
        problems = read(self.source)
        if not self.problems:
            return problems, []
        if not (match := _RANGE.fullmatch(self.problems)):
            raise UserError(f"code.problems = {self.problems!r} must be two numbers, such as 11-510")
        first, last = map(int, match.groups())
        asked, others = [], []
        for problem in problems:
            number = _LAST_NUMBER.search(problem["task_id"])
            (asked if number and first <= int(number[1]) <= last else others).append(problem)
        if not asked:
            raise UserError(f"code.problems = {self.problems}: no task_id of {self.source} ends in such a number")
        return asked, others

    @property
    def _count(self) -> int:
        return 1 if self.solutions else self.samples

    @property
    def _max_bytes(self) -> int:
        return math.ceil(self.tokens * self.bytes_per_token)

    @property
    def _limits(self) -> sandbox.Limits:
        return sandbox.Limits(seconds=self.seconds, cpu_seconds=self.cpu_seconds, memory_bytes=self.memory_mib << 20)

    def _options(self, sample: int) -> Options:
        return Options(
            max_bytes=self._max_bytes,
            temperature=self.temperature,
            top_p=self.top_p,
            stop=_STOP,
            seed=self.seed + sample,
        )


def read(path: str) -> list[dict[str, Any]]:
    """The problems of a file. Raises UserError, which names the line, for one that lacks a field."""
    if not path:
        raise UserError("code reads problems from a file: name it, such as --task=code:HumanEval.jsonl.gz")
    problems = []
    for number, value in json_lines.read(path):
        try:
            msgspec.convert(value, _Problem)
        except msgspec.ValidationError as error:
            raise UserError(f"{path}, line {number}: {str(error).replace('`', '')}") from None
        problems.append(value)
    return problems


def program(problem: dict[str, Any], completion: bytes) -> bytes:
    """What is run, as in HumanEval: prompt, completion, test, and the call of `check`."""
    test = f"\n{problem['test']}\ncheck({problem['entry_point']})"
    return problem["prompt"].encode() + completion + test.encode()


def pass_at_k(samples: int, passed: int, k: int) -> float:
    """The chance that at least one of k samples passes, drawn from these without putting back (arXiv 2107.03374)."""
    return 1 - math.comb(samples - passed, k) / math.comb(samples, k)
