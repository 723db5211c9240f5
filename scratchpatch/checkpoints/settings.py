"""settings.json of a run: the fields that may change when it resumes (config.Field.later), by step.

    [[first step, {field: value}], ...]

The length of the run and all of `optimizer.*` are among them: see `history` for what a change means. The settings of a
step are those that hold at its index, so the steps before a change are, done again, what they were.
"""

from pathlib import Path
from typing import Any

from absl import logging

from scratchpatch import config as config_lib, json_files
from scratchpatch.checkpoints import history
from scratchpatch.checkpoints.history import History
from scratchpatch.json_files import Count

FILE = "settings.json"
_NAMES = tuple(field.name for field in config_lib.FIELDS if field.later)
_SHAPE = list[tuple[Count, dict[str, Any]]]


def begin(workdir: Path, config) -> None:
    """Write the settings of a new run, where there are none yet."""
    if not (workdir / FILE).exists():
        history.write(workdir / FILE, [(0, of(config))])


def follow(workdir: Path, config, step: int) -> History[dict[str, Any]]:
    """The settings of a run that goes on from `step` with this config; settings.json holds them, too. Raises UserError
    where settings.json cannot be read.
    """
    before = read(workdir)
    now = history.follow(before, of(config), step)
    if now != before:
        history.write(workdir / FILE, now)
        logging.info("other settings from step %d on: %s", now[-1][0], "; ".join(described(now)[-1][1]))
    return now


def read(workdir: Path) -> History[dict[str, Any]]:
    """The settings in a workdir; fields that an older version did not have hold their default. Raises UserError where
    they cannot be read.
    """
    defaults, path = of(config_lib.default()), workdir / FILE
    with history.reading(path):
        stored = history.parse(json_files.read(path, _SHAPE, constants=True))
        for step, values in stored:
            if unknown := values.keys() - defaults.keys():
                raise ValueError(f"from step {step} on: {min(unknown)} is no setting that may change")
            config_lib.check(config_lib.from_flat(values))
    return [(step, defaults | values) for step, values in stored]


def described(settings: History[dict[str, Any]]) -> list[tuple[int, list[str]]]:
    """(first step, lines 'name: old -> new') of every change."""
    return [
        (step, [f"{name}: {old.get(name)!r} -> {value!r}" for name, value in new.items() if old.get(name) != value])
        for (_, old), (step, new) in zip(settings, settings[1:], strict=False)
    ]


def of(config) -> dict[str, Any]:
    """Field to value of the fields that may change."""
    values = config_lib.flat(config)
    return {name: values[name] for name in _NAMES}
