"""Tasks of one model, one after the other, with all that is needed to repeat them."""

import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax
from absl import logging

from scratchpatch import config as config_lib, files, json_files, output
from scratchpatch.distributed import processes
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.tasks.task import Setting, Task, file_name


def evaluate(tasks: Sequence[Task], setting: Setting) -> list[dict[str, Any]]:
    """Each task's label, results, protocol and seconds, in the types of JSON; also as
    FOLDER/LABEL-DIGEST-step-STEP.json, in which the digest stands for the protocol.

    Of several processes, which all must call this alike, the first one writes. Raises UserError for the first task that
    cannot be used, or that another process reads otherwise, before any is run.
    """
    protocols = [protocol(task, setting) for task in tasks]
    processes.agree({task.label: json_files.seal(about) for task, about in zip(tasks, protocols, strict=True)})
    answers = []
    for task, about in zip(tasks, protocols, strict=True):
        began = time.monotonic()
        found = output.plain(task.run(setting))
        seconds = time.monotonic() - began
        answer = {"task": task.label, "results": found, "protocol": about, "seconds": seconds}
        answers.append(answer)
        if setting.folder is not None and processes.is_first():
            path = setting.folder / f"{file_name(task.label)}-{json_files.seal(about)[:8]}-step-{setting.lm.step}.json"
            try:
                setting.folder.mkdir(parents=True, exist_ok=True)
                files.replace_text(path, output.as_json(answer) + "\n")
            except OSError as error:
                logging.warning("%s is not written: %s; the result is none the worse", path, error.strerror)
    return answers


def protocol(task: Task, setting: Setting) -> dict[str, Any]:
    """What one must know to repeat the numbers: of the task, the model, and the packages."""
    of_task = processes.together(task.protocol)
    return output.plain(
        {
            "task": {"name": task.name, "source": task.source, **of_task},
            "limit": setting.limit,
            "model": _model(setting.lm),
            "packages": {name: metadata.version(name) for name in ("scratchpatch", "jax", "flax")},
            "platform": jax.default_backend(),
        }
    )


def _model(lm: LanguageModel) -> dict[str, Any]:
    fields = config_lib.flat(lm.config)
    named = ("patching.", "trigger.", "kernels.")
    return {
        "step": lm.step,
        "fingerprint": lm.fingerprint(),
        "window": lm.config.data.window,
        "dtype": lm.config.training.dtype,
        **{name: value for name, value in fields.items() if name.startswith(named)},
    }


def table(result: dict[str, Any]) -> str:
    """What `evaluate` has returned, {"tasks": [...]}, as lines: each task's label, and its results below. Objects that
    have the same fields, such as the groups of a task, are the rows of one table.
    """
    blocks = []
    for answer in result["tasks"]:
        alike = {name: value for name, value in answer["results"].items() if _are_alike(value)}
        alone = {name: value for name, value in answer["results"].items() if name not in alike}
        lines = output.as_table(alone).splitlines()
        for name, rows in alike.items():
            lines += ["", *output.as_columns(name, rows).splitlines()]
        blocks.append("\n".join([output.escaped(answer["task"]), *(f"  {line}".rstrip() for line in lines)]))
    return "\n\n".join(blocks)


def _are_alike(value: Any) -> bool:
    """Whether an object holds several objects of the same fields, none of which is an object."""
    rows = list(value.values()) if isinstance(value, dict) else []
    if len(rows) < 2 or not all(isinstance(row, dict) and row.keys() == rows[0].keys() for row in rows):
        return False
    return not any(isinstance(cell, dict) for row in rows for cell in row.values())
