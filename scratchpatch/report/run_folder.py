"""What a run left in its folder, as the page needs it: what is absent is empty, never an error."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shlex
from pathlib import Path
from typing import Any

from scratchpatch import config as config_lib
from scratchpatch import schema
from scratchpatch.errors import UserError
from scratchpatch.report.figures import Series
from scratchpatch.report.passage import Passage
from scratchpatch.training import goodput, mixture, settings
from scratchpatch.training.metrics import read_metrics


class RunFolder:
    """config.json, settings.json, data.json, metrics.jsonl, goodput.jsonl and evaluation.json of one run; `kind`: see `evaluation_file`.

    config: dotted field name to value. changes: (step, lines 'name: old -> new')
    of what held from a step on, in order. metrics: one dict per line, those of
    training first. goodput: see training.goodput.account, or None. evaluation:
    the evaluator's dict. Raises UserError when the folder does not exist, or a
    line of metrics.jsonl is none of metrics.
    """

    def __init__(self, workdir: str | os.PathLike, kind: str = ""):
        self.path = Path(workdir)
        if not self.path.is_dir():
            raise UserError(f"there is no run at {workdir}: `{command('train', workdir, '--config=FILE')}` makes one")
        known = {field.name for field in config_lib.FIELDS}
        document = _object(self.path / "config.json")
        stored = schema.fields(document) if isinstance(document.get("config"), dict) else {}
        self.config = {name: value for name, value in stored.items() if name in known}
        self.changes = self._changes()
        training, validation = read_metrics(self.path) if (self.path / "metrics.jsonl").exists() else ([], [])
        self.metrics = training + validation
        self.goodput = goodput.account(self.path)
        self.evaluation = read_evaluation(workdir, kind)

    def _changes(self) -> list[tuple[int, list[str]]]:
        """Of the settings and of the sources' weights; what cannot be read counts as no change."""
        found = []
        with contextlib.suppress(UserError):
            found += settings.described(settings.read(self.path))
        with contextlib.suppress(UserError):
            weights = [(step, {"weights of data.sources": each}) for step, each in mixture.read(self.path)["weights"]]
            found += settings.described(weights)
        return sorted(found, key=lambda change: change[0])

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def result(self, name: str) -> Any:
        """One entry of the evaluation's results; {} where there is none."""
        results = self.evaluation.get("results")
        return (results.get(name) if isinstance(results, dict) else None) or {}

    def passage(self) -> Passage | None:
        try:
            return Passage.from_json(self.evaluation["passage"])
        except (KeyError, TypeError, ValueError):
            return None

    def curve(self, key: str, label: str) -> Series:
        """A metric against the step; lines that lack it are left out."""
        points = [(m["step"], m[key]) for m in self.metrics if m.get(key) is not None]
        return Series(label, [p[0] for p in points], [p[1] for p in points])

    def bytes_per_step(self) -> int:
        """Bytes of the windows that one optimizer step reads."""
        values = config_lib.flat(config_lib.default()) | self.config
        return math.prod(values[name] for name in ("training.batch_rows", "data.window"))


def evaluation_file(workdir: str | os.PathLike, kind: str = "") -> Path:
    """Where an evaluation lies; kind: '' of the run's own, else what tells it from that, such as '_step_200'."""
    return Path(workdir) / f"evaluation{kind}.json"


def read_evaluation(workdir: str | os.PathLike, kind: str = "") -> dict:
    """The evaluator's dict, {} where there is none that can be read."""
    return _object(evaluation_file(workdir, kind))


def command(verb: str, workdir: str | os.PathLike, *more: str) -> str:
    """The command line of a verb on a folder, quoted for the shell."""
    return " ".join(["scratchpatch", verb, *more, f"--workdir={shlex.quote(os.fspath(workdir))}"])


def _object(path: Path) -> dict:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
