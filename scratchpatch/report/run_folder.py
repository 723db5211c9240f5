"""What a run left in its folder, as the page needs it.

What is absent is empty, never an error; what is there and cannot be read is named in a warning, and counts as absent.
"""

import contextlib
import math
import os
import re
import shlex
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec
from absl import logging

from scratchpatch import config as config_lib, config_file, json_files, schema
from scratchpatch.checkpoints import run_text, settings
from scratchpatch.errors import UserError
from scratchpatch.evaluation import scores
from scratchpatch.evaluation.answered import evaluation_file
from scratchpatch.json_files import Count
from scratchpatch.report.figures import Series
from scratchpatch.report.passage import Passage
from scratchpatch.training import goodput
from scratchpatch.training.metrics import read_metrics

# A number that can be drawn; an evaluation writes None for what is no number.
_Number = Annotated[float, msgspec.Meta(ge=-1e30, le=1e30)] | None
_RATES = ("trunk_calls_per_byte", "scratchpads_per_byte", "flops_per_byte", "kv_bytes_per_byte")
_NUMBERS = (*_RATES, "bpb", "end_of_document_nats", "entropy_head_bpb", "bytes_per_patch")
# The end of the name of a file that has what a task measured.
_ANSWER = re.compile(r"-step-([0-9]{1,10})\.json$")
_COUNTS = ("bytes", "documents", "compressed_bytes", "step", "max_bytes")


class _Passage(TypedDict):
    text_base64: str
    entropy: list[_Number]
    commit: list[bool]
    scratchpad: list[bool]


def _object(fields: dict[str, Any]) -> Any:
    """The shape of a JSON object, any of whose fields may be missing."""
    return TypedDict("_Object", fields, total=False)


_RESULT = dict.fromkeys(_NUMBERS, _Number) | dict.fromkeys(_COUNTS, Count | None)
_BY_OFFSET = {"bpb_by_offset": list[_Number] | None, "bytes_by_offset": list[Count | None] | None}
_OTHERS = {"compressors": dict[str, _Number] | None, "source": str | None, "split": str | None}
_Result = _object(_RESULT | _BY_OFFSET | _OTHERS) | None
_Sweep = list[_object(_RESULT | {"threshold": _Number})] | None
_Evaluation = _object(
    {
        "step": Count | None, "max_bytes": Count | None,
        "results": _object({"validation": _Result, "without_scratchpads": _Result, "sweep": _Sweep}),
        "passage": _Passage, "account": _object({"parameters": _object({"total": Count | None})}),
    }
)


class Answer(TypedDict):
    """What `tasks.evaluate` wrote of one task."""

    task: str
    results: dict[str, Any]
    protocol: dict[str, Any]
    seconds: _Number


class RunFolder:
    """What config.json, settings.json, data.json, metrics.jsonl, goodput.jsonl and evaluation.json of one run say.
    config: dotted field name to value. changes: (step, lines 'name: old -> new') of what held from a step on. metrics:
    one dict per line, those of training first. evaluation: what `report.evaluation` wrote under this suffix. followed:
    what `eval --follow` wrote, by step. tasks: what tasks have measured at the newest step at which any did, by their
    names. Raises UserError where the folder does not exist, a line of metrics.jsonl is none of metrics, or a newer
    version wrote the config.
    """

    def __init__(self, workdir: str | os.PathLike, suffix: str = ""):
        self.path = Path(workdir)
        self.name = self.path.resolve().name
        if not self.path.is_dir():
            raise UserError(f"there is no run at {workdir}: `{command('train', workdir, '--config=FILE')}` makes one")
        self.config = self._config()
        self.changes = self._changes()
        training, validation = read_metrics(self.path) if (self.path / "metrics.jsonl").exists() else ([], [])
        self.metrics = training + validation
        self.goodput = goodput.account(self.path)
        self.evaluation = read_evaluation(workdir, suffix)
        self.tasks = self._tasks()
        self.followed = self._followed()

    def _config(self) -> dict[str, Any]:
        """Those of the stored fields that this version has."""
        path = self.path / "config.json"
        document = _read(path, config_file.Document, constants=True)
        try:
            values = schema.fields(document) if document else {}
            values = {field.name: values[field.name] for field in config_lib.FIELDS if field.name in values}
            config_lib.from_flat(values)
        except schema.Newer as error:
            raise UserError(f"cannot read {path}: {error}") from error
        except UserError as error:
            logging.warning("%s counts as missing: %s", path, error)
            return {}
        return values

    def _tasks(self) -> list[Answer]:
        found: dict[int, list[Path]] = {}
        with contextlib.suppress(OSError):
            for path in (self.path / scores.FOLDER).iterdir():
                if of_step := _ANSWER.search(path.name):
                    found.setdefault(int(of_step[1]), []).append(path)
        answers = [_read(path, Answer) for path in sorted(found[max(found)])] if found else []
        return [answer for answer in answers if answer]

    def _changes(self) -> list[tuple[int, list[str]]]:
        """Of the settings and of the sources' weights; what cannot be read counts as no change."""
        changes = []
        with contextlib.suppress(UserError):
            changes += settings.described(settings.read(self.path))
        with contextlib.suppress(UserError):
            weights = [(step, {"weights of data.sources": each}) for step, each in run_text.read(self.path)["weights"]]
            changes += settings.described(weights)
        return sorted(changes, key=lambda change: change[0])

    def _followed(self) -> list[dict[str, Any]]:
        try:
            return sorted(scores.read(self.path / scores.FOLDER / scores.FILE), key=lambda line: line["step"])
        except UserError as error:
            logging.warning("%s; the file counts as missing", error)
            return []

    def result(self, name: str) -> Any:
        """One entry of the evaluation's results; {} where there is none."""
        return self.evaluation.get("results", {}).get(name) or {}

    def passage(self) -> Passage | None:
        """The passage of the evaluation; None where there is none, or it does not fit together."""
        try:
            return Passage.from_json(self.evaluation["passage"])
        except (KeyError, ValueError):
            return None

    def curve(self, key: str, label: str, followed: bool = False) -> Series:
        """A metric, or a number of `followed`, against the step; lines that lack it are left out."""
        lines = [line for line in (self.followed if followed else self.metrics) if line.get(key) is not None]
        return Series(label, [line["step"] for line in lines], [line[key] for line in lines])

    def bytes_per_step(self) -> int:
        """Bytes of the windows that one optimizer step reads."""
        values = config_lib.flat(config_lib.default()) | self.config
        size = math.prod(values[name] for name in ("training.batch_rows", "data.window"))
        return min(max(size, 1), 1 << 62)


def read_evaluation(workdir: str | os.PathLike, suffix: str = "") -> dict:
    """What an evaluation's file holds; {} where there is none that can be read."""
    return _read(evaluation_file(workdir, suffix), _Evaluation)


def command(verb: str, workdir: str | os.PathLike, *more: str) -> str:
    """The command line of a verb on a folder, quoted for the shell."""
    return " ".join(["scratchpatch", verb, *more, f"--workdir={shlex.quote(os.fspath(workdir))}"])


def _read(path: Path, shape: Any, constants: bool = False) -> dict:
    """A JSON object (see `json_files.read`); {} where there is none that can be read."""
    try:
        return json_files.read(path, shape, constants)
    except FileNotFoundError:
        return {}
    except (OSError, json_files.Malformed) as error:
        reason = f"{path}: {error.strerror}" if isinstance(error, OSError) else error
        logging.warning("%s; it counts as missing", reason)
        return {}
