"""Tasks of lm-evaluation-harness."""

import dataclasses
import functools
import os
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import msgspec

from scratchpatch import json_files
from scratchpatch.data.extras import need
from scratchpatch.errors import UserError, first_line
from scratchpatch.tasks.items import spaced
from scratchpatch.tasks.task import Setting, Task

# Draws of the harness's bootstrap, for metrics whose standard error has no formula.
_DRAWS = 1000


@dataclasses.dataclass(frozen=True)
class Harness(Task):
    """Tasks of lm-evaluation-harness (extra lm_eval), by their names, groups or YAML files, joined by plus signs.

    --task=harness:arc_easy+piqa needs the data sets in the cache of Hugging Face, or a network; a task whose data is a
    local file needs neither. Prompts and metrics are the harness's own. A task file may hold Python code, which runs.

      harness.include          a folder of further task files, whose tasks are known by name
      harness.shots            examples before a question; -1: as many as each task says
      harness.seed             of all that the harness draws, and of sampled text
      harness.space            as_given scores what the harness asks for, in which a space begins an answer; prompt_end
                               moves it to the end of the prompt, where it is not scored
      harness.bytes_per_token  how many bytes a task's limit of tokens stands for
    """

    name: ClassVar[str] = "harness"
    include: str = ""
    shots: Annotated[int, msgspec.Meta(ge=-1)] = -1
    seed: Annotated[int, msgspec.Meta(ge=0)] = 1234
    space: Literal["as_given", "prompt_end"] = "as_given"
    bytes_per_token: Annotated[int, msgspec.Meta(ge=1)] = 4

    @property
    def label(self) -> str:
        return ":".join([self.name, "+".join(Path(name).stem for name in self._names if name)])

    @property
    def _names(self) -> list[str]:
        return self.source.split("+")

    def protocol(self) -> dict[str, Any]:
        if not all(self._names):
            raise UserError(f"harness needs the names of tasks, not {self.source!r}: write --task=harness:arc_easy")
        if self.include and not os.path.isdir(self.include):
            raise UserError(f"harness.include = {self.include} is no folder")
        return {
            "include": self.include,
            "shots": self.shots,
            "seed": self.seed,
            "space": self.space,
            "bytes_per_token": self.bytes_per_token,
            "bootstrap": _DRAWS,
            "prefix": "BOS",
            "rolling_stride": "half a window",
            "versions": {name: task.VERSION for name, task in self._loaded.items()},
            "lm_eval": metadata.version("lm_eval"),
        }

    def run(self, setting: Setting) -> dict[str, Any]:
        tasks = self._loaded
        from lm_eval import simple_evaluate

        from scratchpatch.tasks.lm_eval import ScratchpatchLM

        model = ScratchpatchLM(
            space=self.space, bytes_per_token=self.bytes_per_token, seed=self.seed, setting=setting, label=self.label
        )
        samples = {name: list(spaced(range(len(task.eval_docs)), setting.limit)) for name, task in tasks.items()}
        try:
            found = simple_evaluate(
                model=model,
                tasks=self._names,
                task_manager=self._manager,
                num_fewshot=None if self.shots < 0 else self.shots,
                samples=None if setting.limit is None else samples,
                bootstrap_iters=_DRAWS,
                random_seed=self.seed,
                numpy_random_seed=self.seed,
                torch_random_seed=self.seed,
                fewshot_random_seed=self.seed,
            )
        except (ValueError, LookupError, TypeError) as error:
            # What a task's own code raises where its data is not as it wants it.
            reason = f"{type(error).__name__}: {first_line(error)}"
            raise UserError(f"{self.label}: {reason}, says lm_eval: compare the task's file with its data") from error
        return {
            "metrics": {name: _metrics(values) for name, values in found["results"].items()},
            "items": {name: len({sample["doc_id"] for sample in rows}) for name, rows in found["samples"].items()},
            "shots": found["n-shot"],
            "asked": {name: _checksum(rows) for name, rows in found["samples"].items()},
        }

    @functools.cached_property
    def _manager(self) -> Any:
        from lm_eval.tasks import TaskManager

        # The harness's own tasks are thousands of files, which files of tasks do not need.
        by_name = any(Path(name).suffix not in (".yaml", ".yml") for name in self._names)
        return TaskManager(include_path=self.include or None, include_defaults=by_name)

    @functools.cached_property
    def _loaded(self) -> dict[str, Any]:
        """The harness's tasks, by name. Raises UserError for one that it does not know, or whose data it cannot read.
        """
        need("lm_eval", "lm_eval", "the task harness")
        loaded: dict[str, Any] = {}
        for name in self._names:
            try:
                loaded |= self._manager.load([name])["tasks"]
            except KeyError as error:
                raise UserError(
                    f"harness: lm_eval knows no task {name!r} ({first_line(error)}): name another, or its file, or "
                    "set harness.include to the folder of its file"
                ) from error
            except Exception as error:  # whatever a task file, or the library that reads its data, may raise
                raise UserError(f"harness: the task {name!r} cannot be used: {first_line(error)}") from error
        return loaded


def _metrics(values: dict[str, Any]) -> dict[str, Any]:
    """A task's numbers by name; ",none" marks those that went through no filter."""
    numbers = {name.removesuffix(",none"): value for name, value in values.items() if name != "alias"}
    return {name: value for name, value in numbers.items() if isinstance(value, (int, float))}


def _checksum(samples: list[dict[str, Any]]) -> str:
    """Of all that was asked of a task, and what was right."""
    return json_files.seal([[sample[name] for name in ("prompt_hash", "target_hash")] for sample in samples])
