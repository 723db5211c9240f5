"""CUTE: what a model knows of the letters and words of its text (Edman et al., arXiv 2409.15452)."""

import ast
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from scratchpatch import files, json_files
from scratchpatch.errors import UserError
from scratchpatch.inference.options import Options
from scratchpatch.output import short_repr
from scratchpatch.tasks import cute_prompts
from scratchpatch.tasks.items import Item, ItemTask, checksum
from scratchpatch.tasks.ratios import ratio
from scratchpatch.tasks.requests import Answer, Generation
from scratchpatch.tasks.task import Setting

# The tasks in the order of the paper, each with the number of its inputs.
INPUTS = {
    "spell": 1,
    "spell_inverse": 1,
    "contains_char": 2,
    "contains_word": 2,
    "orth": 3,
    "sem": 3,
    "ins_char": 3,
    "ins_word": 3,
    "del_char": 2,
    "del_word": 2,
    "sub_char": 3,
    "sub_word": 3,
    "swap_char": 3,
    "swap_word": 3,
}
# Their answers are Yes and No, or one of two words that the question names.
_HALF_BY_CHANCE = ("contains_char", "contains_word", "orth", "sem")
# What the official script puts after a prompt, where a model's own template for chats would stand before it.
_ANSWER = ' Answer: "'
_FOLDER_HINT = "name the folder data/ of the CUTE repository, which has a file of tab-separated values for each task"


@dataclasses.dataclass(frozen=True)
class Cute(ItemTask):
    """CUTE: 14 tasks of spelling and editing words and sentences; greedy answers, exact match, 4 worked examples.

    --task=cute:FOLDER, in which each task is a file such as spell.tsv, whose first line names its columns.

      cute.prompt      base: prompts of ours for models that continue text, which differ from the published ones;
                       published: those of the paper's repository, without a template for chats, and the answer is the
                       first text in quotes after the last "Answer:"
      cute.prompts     the file prompts.py of that repository, which `published` reads; empty: in FOLDER or above it
      cute.tasks       such as spell+sem; empty: all 14
      cute.tokens      the most tokens of an answer by the published protocol
      cute.bytes_per_token   an answer has at most tokens x bytes_per_token bytes
    """

    name: ClassVar[str] = "cute"
    prompt: Literal["base", "published"] = "base"
    prompts: str = ""
    tasks: tuple[str, ...] = ()
    tokens: Annotated[int, msgspec.Meta(ge=1)] = 100
    bytes_per_token: Annotated[float, msgspec.Meta(gt=0)] = 4.0

    def protocol(self) -> dict[str, Any]:
        published = self.prompt == "published"
        return {
            "prompt": self.prompt,
            "prompts_checksum": checksum(self.items()),
            "labels_checksum": json_files.seal([item.data for item in self.items()]),
            "tasks": list(self._tasks),
            "shots": 4,
            "answer_prefix": _ANSWER if published else '"',
            "stop": [] if published else [string.decode() for string in cute_prompts.STOP],
            "temperature": 0.0,
            "max_bytes": self._max_bytes,
            "max_bytes_from": f"{self.tokens} tokens at {self.bytes_per_token:g} bytes",
            "chat_template": False,
            "extraction": "first quoted text after the last Answer:" if published else "up to the closing quote",
            "match": "exact after stripping; of the word tasks (contains, ins, del, sub, swap) in lower case",
            "long_prompts": "read by their last bytes, at most the window and at least half of it",
        }

    def items(self) -> Sequence[Item]:
        return self._items

    def grade(self, item: Item, answers: list[Answer]) -> dict[str, Any]:
        task, label = item.data
        (written,) = answers
        if self.prompt == "published":
            said = quoted(item.requests[0].prompt + written)
        else:
            said = written.decode(errors="replace").strip()
        right = _comparable(task, said) == _comparable(task, label)
        return {"task": task, "right": right, "label": label, "said": said}

    def summary(self, grades: list[dict[str, Any]], setting: Setting) -> dict[str, Any]:
        """`accuracy` is the mean of the tasks' accuracies; its error takes the tasks as fixed."""
        tasks = {}
        for task in dict.fromkeys(grade["task"] for grade in grades):
            right = [grade["right"] for grade in grades if grade["task"] == task]
            accuracy, error = ratio(right)
            chance = 0.5 if task in _HALF_BY_CHANCE else 0.0
            tasks[task] = {"accuracy": accuracy, "standard_error": error, "chance": chance, "items": len(right)}
        errors = [task["standard_error"] for task in tasks.values()]
        return {
            "prompt": self.prompt,
            "accuracy": sum(task["accuracy"] for task in tasks.values()) / len(tasks),
            "standard_error": None if None in errors else sum(error**2 for error in errors) ** 0.5 / len(errors),
            "tasks": tasks,
        }

    @property
    def _max_bytes(self) -> int:
        return max(int(self.tokens * self.bytes_per_token), 1)

    @property
    def _tasks(self) -> Sequence[str]:
        if unknown := [task for task in self.tasks if task not in INPUTS]:
            raise UserError(f"cute.tasks: there is no {unknown[0]!r}; the tasks are {', '.join(INPUTS)}")
        return self.tasks or tuple(INPUTS)

    @functools.cached_property
    def _items(self) -> list[Item]:
        if not self.source:
            raise UserError(f"cute reads a folder: {_FOLDER_HINT}")
        stop = () if self.prompt == "published" else cute_prompts.STOP
        options = Options(max_bytes=self._max_bytes, stop=stop)
        templates = self._published() if self.prompt == "published" else None
        by_task = []
        for task in self._tasks:
            rows = read(Path(self.source) / f"{task}.tsv", task)
            if templates is None:
                prompts = [cute_prompts.base(task, inputs) for inputs, _ in rows]
            else:
                prompts = [templates[task].format(*inputs) + _ANSWER for inputs, _ in rows]
            requests = [Generation(prompt.encode(), options) for prompt in prompts]
            by_task.append([Item((each,), (task, row[1])) for each, row in zip(requests, rows, strict=True)])
        return [item for items in by_task for item in items]

    def _published(self) -> dict[str, str]:
        """The published prompts, from the file that holds them; nothing of it is executed."""
        places = [Path(self.source) / "prompts.py", Path(self.source).resolve().parent / "prompts.py"]
        path = Path(self.prompts) if self.prompts else next((path for path in places if path.is_file()), None)
        if path is None:
            fix = "name it by cute.prompts, or use cute.prompt=base, which are not the published prompts"
            raise UserError(f"no prompts.py (a file of the CUTE repository) is in {self.source} or above it: {fix}")
        try:
            with files.open_regular(path) as file:
                tree = ast.parse(file.read())
            assigned = [node for node in tree.body if isinstance(node, ast.Assign)]
            values = [node.value for node in assigned if ast.unparse(node.targets[0]) == "PROMPTS"]
            prompts = msgspec.convert(ast.literal_eval(values[-1]), dict[str, str])
            for task in self._tasks:
                prompts[task].format(*["x"] * INPUTS[task])
            return prompts
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}") from None
        except (ValueError, SyntaxError, IndexError, KeyError, msgspec.ValidationError):
            wanted = f"PROMPTS = {{...}}, a prompt with places for the inputs of each of {', '.join(self._tasks)}"
            raise UserError(f"{path} is not the prompts.py of the CUTE repository: wanted {wanted}") from None


def read(path: Path, task: str) -> list[tuple[list[str], str]]:
    """The rows of a file: inputs, and label. Raises UserError, which names the line, for one that cannot be used."""
    names = [f"input{number}" for number in range(1, INPUTS[task] + 1)] + ["label"]
    try:
        with files.open_regular(path) as file:
            lines = file.read().decode().replace("\r\n", "\n").rstrip("\n").split("\n")
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: {_FOLDER_HINT}; or leave {task} out by cute.tasks") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path} is no UTF-8: {_FOLDER_HINT}") from None
    header = lines[0].split("\t")
    if missing := [name for name in names if name not in header]:
        raise UserError(f"{path}, line 1: no column {missing[0]!r}; wanted {', '.join(names)}, with tabs between them")
    rows = []
    for number, line in enumerate(lines[1:], start=2):
        values = line.split("\t")
        if len(values) != len(header):
            what = f"{len(values)} values, wanted {len(header)}"
            raise UserError(f"{path}, line {number}: {what}, with tabs between them: {short_repr(line)}")
        *inputs, label = [values[header.index(name)] for name in names]
        if not label.strip():
            raise UserError(
                f"{path}, line {number}: the label is empty, so that nothing would be right: remove the line"
            )
        rows.append((inputs, label))
    if not rows:
        raise UserError(f"{path} has no rows below its header: {_FOLDER_HINT}")
    return rows


def quoted(text: bytes) -> str:
    """The first text in quotes after the last `Answer:`, which also ends where the text does; '' of none."""
    said = text.decode(errors="replace").rpartition("Answer:")[2].partition('"')[2]
    return said.partition('"')[0].strip()


def _comparable(task: str, text: str) -> str:
    return text.lower() if task.endswith("_word") else text
