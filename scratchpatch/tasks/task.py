"""What a task is: options, a protocol, and numbers of a model."""

import abc
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from scratchpatch.inference.language_model import LanguageModel


@dataclasses.dataclass(frozen=True)
class Setting:
    """What tasks of one evaluation share.

    Attributes:
      lm: the model, with its overrides.
      workdir: the folder it was loaded from; None where it was not.
      split: of the run's own text, for tasks that read it.
      folder: where results are stored as they come, so that an evaluation that was killed goes on; None: nowhere.
      limit: the most items of a task, evenly spaced over all that it has; None: all.
      shown: whether progress is told, on a terminal or in the log.
      moved: called as the work goes on; what it raises ends the task.
    """

    lm: LanguageModel
    workdir: Path | None = None
    split: str = "validation"
    folder: Path | None = None
    limit: int | None = None
    shown: bool = True
    moved: Callable[[], None] = lambda: None


@dataclasses.dataclass(frozen=True)
class Task(abc.ABC):
    """Subclasses are frozen dataclasses whose fields are the task's options, all with defaults; their docstrings are
    what `scratchpatch eval --task=list` says of them.

    source: what `--task=NAME:SOURCE` names: a file, a glob, or a name that the task knows.
    """

    name: ClassVar[str]
    source: str = ""

    @property
    def label(self) -> str:
        """What results are called: the task's name, and the name of its source without folder and endings."""
        stem = Path(self.source).name.partition(".")[0]
        return f"{self.name}:{stem}" if stem else self.name

    @abc.abstractmethod
    def protocol(self) -> dict[str, Any]:
        """What one must know to repeat the task, in the types of JSON, beside what `evaluate.protocol` says of the
        model. Raises UserError for options and sources that cannot be used.
        """

    @abc.abstractmethod
    def run(self, setting: Setting) -> dict[str, Any]:
        """The task's numbers, in the types of JSON. Raises UserError as `protocol` does."""


def file_name(label: str) -> str:
    """A label as part of a file's name: characters that file systems do not like become dashes."""
    return "".join(character if character.isalnum() or character in "._" else "-" for character in label)
