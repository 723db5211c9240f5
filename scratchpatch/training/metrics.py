"""What a run measures, step by step.

    workdir/metrics.jsonl    one JSON object per line: {"step": n, "bpb": ...} of training,
                             {"step": n, "validation_bpb": ...} of a validation, {"step": n, "task/LABEL/NAME": ...}
                             of tasks; null where a number is not finite.
                             A step that was skipped also has "skipped": true, "batch" (its index) and "reason"
    workdir/tensorboard/     the same numbers for TensorBoard, see `tensorboard`
"""

import itertools
import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Required, TypedDict

import jax
import jax.numpy as jnp
from absl import logging

from scratchpatch.accounting import chips, flops
from scratchpatch.errors import UserError
from scratchpatch.files import open_regular, replace_text
from scratchpatch.json_files import Count, Malformed, parse, plain
from scratchpatch.model import benefit, loss
from scratchpatch.training.appended import Appended
from scratchpatch.training.tensorboard import EventFiles

_FILE = "metrics.jsonl"
_VALIDATION = "validation_bpb"
# Begins the names of what tasks have measured.
TASK = "task/"


class _Line(TypedDict, total=False):
    step: Required[Count]
    bpb: float | None
    head_bpb: float | None
    validation_bpb: float | None
    skipped: bool
    batch: Count
    reason: str
    causality: str


class MetricsWriter:
    """Owns a workdir's metrics.jsonl, and passes what is written on to TensorBoard's files. workdir: None: nothing is
    written, because another process of the run does it. Raises UserError where metrics.jsonl is none, or cannot be
    written; `write` raises nothing.
    """

    def __init__(self, workdir: str | Path | None):
        self._events: EventFiles | None = None
        self._lines: Appended | None = None
        if workdir is None:
            return
        self._path = Path(workdir) / _FILE
        self._lines = Appended(self._path)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch()
        except OSError as error:
            raise self._unwritable(error) from error
        # The lines must be readable, and what a kill has torn goes.
        _records(self._path)
        self._rewrite(_lines(self._path))
        try:
            self._events = EventFiles(self._path.parent / "tensorboard")
        except UserError as error:
            logging.info("no TensorBoard files: %s", error)

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """Append one line; it is with the system when this returns, or waits for another try. values: names to numbers
        (Python, numpy, or jax scalars) or short texts.
        """
        if self._lines is None:
            return
        values = {name: plain(value) for name, value in values.items()}
        self._lines.add(_text({"step": int(step), **values}))
        if self._events:
            self._events.write(int(step), values)

    def truncate(self, last_step: int) -> None:
        """Drop the lines of steps after `last_step`; -1 drops all."""
        self.close()
        if self._events:
            self._events.truncate(last_step)
        kept = [record["step"] <= last_step for record in _records(self._path)]
        self._rewrite(list(itertools.compress(_lines(self._path), kept)))

    def adopt(self, records: list[dict[str, Any]]) -> None:
        """Begin with the lines of another run, which this one goes on from; what is there is dropped."""
        self.close()
        self._rewrite([_text(record).rstrip() for record in records])

    def skipped_in_a_row(self, last: int, since: int) -> int:
        """How many of the steps up to `last` were skipped in a row, of those with an index from `since` on. A step
        without a line, which could not be written, counts as none that was skipped.
        """
        skipped = {record["step"] for record in _records(self._path) if record.get("skipped")}
        step = last
        while step > since and step in skipped:
            step -= 1
        return last - step

    def close(self) -> None:
        for file in filter(None, (self._lines, self._events)):
            file.close()

    def _rewrite(self, lines: list[bytes]) -> None:
        """Let these be the lines: in place where only the last ones go, which a full disk allows."""
        try:
            if lines == _lines(self._path)[: len(lines)]:
                os.truncate(self._path, sum(len(line) + 1 for line in lines))
            else:
                replace_text(self._path, b"".join(line + b"\n" for line in lines).decode())
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write {self._path}: {error.strerror}; free space there, make it writable, or use another --workdir"
        )


def read_metrics(workdir: str | Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The lines of training, and those of validations and tasks, in the order written; None where a number was not
    finite. Raises UserError where there is no metrics.jsonl, or a line of it is none of metrics.
    """
    training, beside = [], []
    for record in read_all(workdir):
        of_training = _VALIDATION not in record and not any(name.startswith(TASK) for name in record)
        (training if of_training else beside).append(record)
    return training, beside


def read_all(workdir: str | Path) -> list[dict[str, Any]]:
    """All lines, in the order written. Raises UserError as `read_metrics` does."""
    path = Path(workdir) / _FILE
    if not path.is_file():
        raise UserError(f"{workdir} has no {_FILE}: train into it first")
    return _records(path)


def _lines(path: Path) -> list[bytes]:
    """The whole lines, without their newlines: a line counts once that is written."""
    try:
        with open_regular(path) as file:
            return file.read().split(b"\n")[:-1]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _records(path: Path) -> list[dict[str, Any]]:
    records = []
    for number, line in enumerate(_lines(path), start=1):
        try:
            records.append(parse(line, _Line))
            for name, value in records[-1].items():
                if isinstance(value, (dict, list)):
                    raise Malformed(f"{name}: Expected a number or a text")
        except Malformed as error:
            shown = repr(line[:80].decode(errors="replace"))
            raise UserError(f"{path}:{number}: {shown} is no line of metrics ({error}): remove that line") from error
    return records


def _text(record: dict[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False).encode() + b"\n"


def packed(sums: Mapping[str, jax.Array]) -> jax.Array:
    """float32 [sums]: scalars, sorted by name, as one array."""
    return jnp.stack([sums[name].astype(jnp.float32) for name in sorted(sums)])


class Measures:
    """Turns the sums of a step (see `loss.sums`) into what a line of metrics holds. learning_rate: by the step's index,
    on the host: asking a device would wait behind the step it runs.
    """

    def __init__(self, config, learning_rate: Callable[[int], float], devices):
        self._learning_rate, self._has_trunk = learning_rate, config.model.trunk.kind != "none"
        self._flops = flops.by_sum(config)
        peak = chips.peak_flops(devices[0].device_kind)
        self._peak = peak and peak * len(devices)

    def of_step(self, index: int, sums: Mapping[str, float], seconds: float | None) -> dict[str, float]:
        """What the step with this index, which took so long, measured. end_of_document_nats: mean over ends, NaN where
        no document ends. scratchpad_benefit_nats: the mean that a scratchpad would save; benefit_correlation_*: of what
        predicts it with what was measured. boundaries_per_byte: that a router asked for, also those that the budget
        refused. Rates are per byte (a BOS counts as one), suppressed ones counts. flops_per_second counts useful FLOPs;
        mfu is its share of the chips' dense bf16 peak.
        """

        def bits(nats: float) -> float:
            return nats / max(sums["bytes"], 1.0) / math.log(2)

        # Of bytes as many as there are, and of tokens as many as the bytes that they stand for.
        positions = max(sums["positions"], 1.0) * loss.bytes_per_position(sums)
        commits, scratchpads = sums["commits"] / positions, sums["scratchpads"] / positions
        values = {
            "bpb": bits(sums["nats"]),
            "end_of_document_nats": sums["end_nats"] / sums["ends"] if sums["ends"] else math.nan,
            "gradient_norm": sums["gradient_norm"], "learning_rate": self._learning_rate(index), "bytes": sums["bytes"],
        }
        if self._has_trunk:
            copied = ("suppressed_commits", "suppressed_scratchpads", "patching_threshold", "trigger_threshold")
            values |= {
                "trunk_calls_per_byte": commits + scratchpads, "scratchpads_per_byte": scratchpads,
                "bytes_per_patch": 1 / commits if commits else math.inf, **{name: sums[name] for name in copied},
            }
        if "ratio" in sums:
            shares = {"boundaries_per_byte": "boundaries", "boundary_probability": "boundary_probability"}
            shares |= {"ratio_loss": "ratio"}
            values |= {name: sums[total] / positions for name, total in shares.items()}
        if "benefit_count" in sums:
            values["scratchpad_benefit_nats"] = sums["benefit"] / max(sums["benefit_count"], 1.0)
            for name in benefit.PREDICTORS:
                if f"{name}_sum" in sums:
                    values[f"benefit_correlation_{name}"] = benefit.correlation(sums, name)
        if "head_nats" in sums:
            values["head_bpb"] = bits(sums["head_nats"])
        if seconds:
            values["bytes_per_second"] = sums["bytes"] / seconds
            values["flops_per_second"] = flops.of_sums(self._flops, sums) / seconds
            if self._peak:
                values["mfu"] = values["flops_per_second"] / self._peak
        return values
