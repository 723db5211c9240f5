"""settings.json of a run: the fields that may change when it resumes (config.Field.later), by step.

    [[first step, {field: value}], ...]

The length of the run and all of `optimizer.*` are among them: see `history` for what a change means. The settings of a
step are those that hold at its index, so the steps before a change are, done again, what they were.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
from absl import logging

from scratchpatch import config as config_lib
from scratchpatch import json_files
from scratchpatch.checkpoints import history
from scratchpatch.checkpoints.history import History
from scratchpatch.errors import UserError
from scratchpatch.files import replace_text
from scratchpatch.json_files import Count

FILE = "settings.json"
_NAMES = tuple(field.name for field in config_lib.FIELDS if field.later)
_SHAPE = list[tuple[Count, dict[str, Any]]]


def begin(workdir: Path, config) -> None:
    """Write the settings of a new run, where there are none yet."""
    if not (workdir / FILE).exists():
        write(workdir, [(0, of(config))])


def follow(workdir: Path, config, step: int) -> History[dict[str, Any]]:
    """(first step, field to value) of a run that goes on from `step` with this config; also kept in settings.json.

    Raises:
      UserError: settings.json cannot be read.
    """
    known = read(workdir)
    found = history.follow(known, of(config), step)
    if found != known:
        write(workdir, found)
        logging.info("other settings from step %d on: %s", found[-1][0], "; ".join(described(found)[-1][1]))
    return found


def read(workdir: Path) -> History[dict[str, Any]]:
    """The history that is there; fields that an older version did not have hold their default.

    Raises:
      UserError: it cannot be read.
    """
    defaults, path = of(config_lib.default()), workdir / FILE
    try:
        known = history.read(json_files.read(path, _SHAPE, constants=True))
        for step, values in known:
            if unknown := values.keys() - defaults.keys():
                raise ValueError(f"from step {step} on: {min(unknown)} is no setting that may change")
            config_lib.check(config_lib.from_flat(values))
    except json_files.Malformed as error:
        raise UserError(f"cannot read {error}; restore it, or use another --workdir") from error
    except (OSError, ValueError, UserError) as error:
        raise UserError(f"cannot read {path} ({error}); restore it, or use another --workdir") from error
    return [(step, defaults | values) for step, values in known]


def write(workdir: Path, known: History[dict[str, Any]]) -> None:
    """Of several processes the first one does."""
    if jax.process_index() == 0:
        replace_text(workdir / FILE, json.dumps(known, indent=1) + "\n")


def described(known: History[dict[str, Any]]) -> list[tuple[int, list[str]]]:
    """(first step, lines 'name: old -> new') of every change."""
    return [
        (step, [f"{name}: {old.get(name)!r} -> {value!r}" for name, value in new.items() if old.get(name) != value])
        for (_, old), (step, new) in zip(known, known[1:], strict=False)
    ]


def of(config) -> dict[str, Any]:
    """Field to value of those that may change."""
    values = config_lib.flat(config)
    return {name: values[name] for name in _NAMES}
