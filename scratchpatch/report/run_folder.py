"""What a run left in its folder, as the page needs it: what is absent is empty, never an error.

What is there and cannot be read is named in a warning, and counts as absent.
"""

from __future__ import annotations

import contextlib
import math
import os
import shlex
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
from absl import logging

from scratchpatch import config as config_lib
from scratchpatch import json_files, schema
from scratchpatch.checkpoints import run_text, settings
from scratchpatch.errors import UserError
from scratchpatch.json_files import Count
from scratchpatch.report.figures import Series
from scratchpatch.report.passage import Passage
from scratchpatch.training import goodput
from scratchpatch.training.metrics import read_metrics

# What can be drawn; an evaluation writes None for what is no number.
_Number = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)] | None
_Count = Count | None


class _Config(TypedDict):
    config: dict[str, Any]
    schema: NotRequired[Any]
    version: NotRequired[str]


class _Result(TypedDict, total=False):
    """Of one evaluation."""

    bpb: _Number
    bytes: _Count
    documents: _Count
    end_of_document_nats: _Number
    entropy_head_bpb: _Number
    trunk_calls_per_byte: _Number
    scratchpads_per_byte: _Number
    bytes_per_patch: _Number
    flops_per_byte: _Number
    kv_bytes_per_byte: _Number
    bpb_by_offset: list[_Number] | None
    bytes_by_offset: list[_Count] | None
    compressors: dict[str, _Number] | None
    compressed_bytes: _Count
    source: str | None
    split: str | None
    step: _Count
    max_bytes: _Count


class _Point(TypedDict, total=False):
    """Of a sweep."""

    threshold: _Number
    bpb: _Number
    bytes: _Count
    trunk_calls_per_byte: _Number
    flops_per_byte: _Number


class _Results(TypedDict, total=False):
    validation: _Result | None
    without_scratchpads: _Result | None
    sweep: list[_Point] | None


class _Passage(TypedDict):
    text_base64: str
    entropy: list[_Number]
    commit: list[bool]
    scratchpad: list[bool]


class _Parameters(TypedDict, total=False):
    total: _Count


class _Account(TypedDict, total=False):
    parameters: _Parameters


class _Evaluation(TypedDict, total=False):
    step: _Count
    max_bytes: _Count
    results: _Results
    passage: _Passage
    account: _Account


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
        self.config = self._config()
        self.changes = self._changes()
        training, validation = read_metrics(self.path) if (self.path / "metrics.jsonl").exists() else ([], [])
        self.metrics = training + validation
        self.goodput = goodput.account(self.path)
        self.evaluation = read_evaluation(workdir, kind)

    def _config(self) -> dict[str, Any]:
        """Those of the fields that there are now. Raises UserError where a newer version wrote them."""
        document = _read(self.path / "config.json", _Config, constants=True)
        known = {field.name for field in config_lib.FIELDS}
        try:
            stored = {name: value for name, value in schema.fields(document).items() if name in known} if document else {}
            config_lib.from_flat(stored)
        except schema.Newer as error:
            raise UserError(f"cannot read {self.path / 'config.json'}: {error}") from error
        except UserError as error:
            logging.warning("%s counts as missing: %s", self.path / "config.json", error)
            return {}
        return stored

    def _changes(self) -> list[tuple[int, list[str]]]:
        """Of the settings and of the sources' weights; what cannot be read counts as no change."""
        found = []
        with contextlib.suppress(UserError):
            found += settings.described(settings.read(self.path))
        with contextlib.suppress(UserError):
            weights = [(step, {"weights of data.sources": each}) for step, each in run_text.read(self.path)["weights"]]
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
        found = math.prod(values[name] for name in ("training.batch_rows", "data.window"))
        return min(max(found, 1), 1 << 62)


def evaluation_file(workdir: str | os.PathLike, kind: str = "") -> Path:
    """Where an evaluation lies; kind: '' of the run's own, else what tells it from that, such as '_step_200'."""
    return Path(workdir) / f"evaluation{kind}.json"


def report_file(workdir: str | os.PathLike, kind: str = "") -> Path:
    """Where the page of an evaluation of that kind lies."""
    return Path(workdir) / f"report{kind}.html"


def read_evaluation(workdir: str | os.PathLike, kind: str = "") -> dict:
    """The evaluator's dict, {} where there is none that can be read."""
    return _read(evaluation_file(workdir, kind), _Evaluation)


def command(verb: str, workdir: str | os.PathLike, *more: str) -> str:
    """The command line of a verb on a folder, quoted for the shell."""
    return " ".join(["scratchpatch", verb, *more, f"--workdir={shlex.quote(os.fspath(workdir))}"])


def _read(path: Path, shape: Any, constants: bool = False) -> dict:
    """A JSON object (see `json_files.read`), {} where there is none that can be read."""
    try:
        return json_files.read(path, shape, constants)
    except FileNotFoundError:
        return {}
    except OSError as error:
        logging.warning("%s counts as missing: %s", path, error.strerror)
    except json_files.Malformed as error:
        logging.warning("%s; it counts as missing", error)
    return {}
