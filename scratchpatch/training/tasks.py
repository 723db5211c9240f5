"""Tasks that are measured while training goes on: evaluation.tasks. They change nothing of what is trained."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from absl import logging

from scratchpatch import output
from scratchpatch.distributed import processes
from scratchpatch.errors import UserError
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.tasks import names
from scratchpatch.tasks.task import Setting, Task
from scratchpatch.training.metrics import TASK

# Parts of results that tell of parts of a task, of which there may be hundreds; `eval --task` tells them.
_DETAILS = ("groups", "spread")
# Characters of what went wrong that are logged.
_LONGEST = 500


class Abandoned(Exception):
    """The run is about to stop, and whatever a task has done so far is not needed."""


class TrainingTasks:
    """The tasks of a config. Raises UserError for a name or an option that there is not."""

    def __init__(self, config):
        evaluation = config.evaluation
        self._tasks = names.parse(evaluation.tasks, evaluation.options)
        self._every, self._limit = evaluation.every, evaluation.limit or None
        self._left_out: set[Task] = set()

    def due(self, done: int, last: bool) -> bool:
        """Whether tasks are measured after so many steps; the same in every process, whatever has failed in one."""
        return bool(self._tasks) and self._every > 0 and (last or done % self._every == 0)

    def measure(self, lm: LanguageModel, workdir: Path, moved: Callable[[], None]) -> dict[str, float | int]:
        """The numbers of all tasks by name, such as task/choice:arc_easy/accuracy/raw/mean.

        A task that raises anything but what stops a process (KeyboardInterrupt, SystemExit) is reported in the log, and
        left out until the next start. All processes over which the weights are spread must call this.

        moved: called as the work goes on. Where it raises Abandoned, the numbers so far are returned.
        """
        setting = Setting(lm, workdir, limit=self._limit, shown=False, moved=moved)
        numbers: dict[str, float | int] = {}
        for task in self._tasks:
            if task in self._left_out:
                continue
            try:
                results, problem = _attempt(task, setting)
            except Abandoned:
                logging.info("tasks are left out at step %d, since the run stops", lm.step)
                break
            if problem:
                self._left_out.add(task)
                logging.warning("the task %s is left out from step %d on: %s", task.label, lm.step, problem)
            numbers |= {f"{TASK}{task.label}/{name}": value for name, value in _numbers(results)}
        return numbers


def _attempt(task: Task, setting: Setting) -> tuple[dict[str, Any], str]:
    """A task's results, and what went wrong: '' where nothing did."""
    # What a task reads, it reads for its protocol: what cannot be read on one machine of several is told before any of
    # them waits for another in the middle of the task.
    stages = (task.protocol, lambda: output.plain(task.run(setting)))
    results: dict[str, Any] = {}
    for stage in stages:
        problem = ""
        try:
            results = stage()
        except Abandoned:
            raise
        except Exception as error:
            kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
            problem = kind + output.one_line(error, _LONGEST)
        if problem := _agreed(problem):
            return {}, problem
    return results, ""


def _agreed(problem: str) -> str:
    """The problem of the first process that has one, in all of them."""
    problems = processes.gather(lambda: problem, "problem of a task, each")
    return processes.first(lambda: next(filter(None, problems), ""), "problem of a task")


def _numbers(results: dict[str, Any], above: str = "") -> Iterator[tuple[str, float | int]]:
    """The numbers of results, by their names joined with slashes."""
    for name, value in results.items():
        if isinstance(value, dict) and name not in _DETAILS:
            yield from _numbers(value, f"{above}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield above + name, value
