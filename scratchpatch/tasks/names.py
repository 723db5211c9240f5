"""Tasks by name, and their options as the command line and configs write them."""

import dataclasses
import difflib
import inspect
from collections.abc import Iterable
from typing import Any, get_type_hints

import msgspec

from scratchpatch import output
from scratchpatch.errors import UserError
from scratchpatch.tasks.bpb import BitsPerByte
from scratchpatch.tasks.choice import Choice
from scratchpatch.tasks.code import Code
from scratchpatch.tasks.compute import Compute
from scratchpatch.tasks.computed import Computed
from scratchpatch.tasks.cute import Cute
from scratchpatch.tasks.harness import Harness
from scratchpatch.tasks.noise import Noise
from scratchpatch.tasks.recall import Recall
from scratchpatch.tasks.task import Task
from scratchpatch.tasks.utf8 import Utf8

_ALL = (BitsPerByte, Choice, Code, Compute, Computed, Cute, Harness, Noise, Recall, Utf8)
TASKS: dict[str, type[Task]] = {task.name: task for task in _ALL}


def parse(specs: str | Iterable[str], options: Iterable[str] = ()) -> list[Task]:
    """The tasks that are asked for.

    Args:
      specs: "NAME[:SOURCE],NAME[:SOURCE],...", or its parts.
      options: "NAME.FIELD=VALUE" each; of all tasks of that name.
    Raises:
      UserError: no such task, or no such field of it, or a value that is not of the field's type.
    """
    parts = specs.split(",") if isinstance(specs, str) else list(specs)
    values: dict[str, dict[str, str]] = {}
    for option in options:
        name, dot, rest = option.partition(".")
        field, equals, value = rest.partition("=")
        if not (dot and equals):
            raise UserError(f"option {option!r}: wanted NAME.FIELD=VALUE, such as choice.shots=5")
        values.setdefault(name, {})[field] = value
    names = [part.partition(":")[0] for part in parts]
    for name in (*names, *values):
        _known(name, TASKS, "task")
    if idle := sorted(values.keys() - set(names)):
        raise UserError(f"option {idle[0]}.{next(iter(values[idle[0]]))}: the task {idle[0]} is not asked for")
    return [_task(part, values.get(name, {})) for part, name in zip(parts, names, strict=True)]


def fields(task: type[Task]) -> dict[str, Any]:
    """The options of a task, beside its source, with their defaults."""
    return {field.name: field.default for field in dataclasses.fields(task) if field.name != "source"}


def listing() -> str:
    """All tasks: what each measures, and its options with their defaults."""
    blocks = []
    for name, task in sorted(TASKS.items()):
        options = [f"    --option {name}.{field}={_written(default)}" for field, default in fields(task).items()]
        text = inspect.cleandoc(task.__doc__ or "")
        blocks.append("\n".join([name, *(f"  {line}".rstrip() for line in text.splitlines()), *options]))
    return "\n\n".join(blocks)


def _written(value: Any) -> str:
    """A default as an option has it."""
    return output.escaped("+".join(map(str, value)) if isinstance(value, tuple) else str(value))


def _task(part: str, values: dict[str, str]) -> Task:
    name, _, source = part.partition(":")
    kind, converted = TASKS[name], {}
    hints = get_type_hints(kind, include_extras=True)
    for field, text in values.items():
        _known(field, fields(kind), f"option of {name}")
        try:
            # Names of several values are joined by plus signs, since commas part the tasks of a list.
            value = text.split("+") if str(hints[field]).startswith("tuple") else text
            converted[field] = msgspec.convert(value, hints[field], strict=False)
        except msgspec.ValidationError as error:
            raise UserError(f"option {name}.{field}={text}: {str(error).lower()}") from None
    return kind(source=source, **converted)


def _known(name: str, names: Iterable[str], what: str) -> None:
    names = list(names)
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"wanted one of {', '.join(sorted(names))}"
        raise UserError(f"no {what} {name!r}: {hint}")
