"""What a run measured, step by step.

    workdir/metrics.jsonl    one JSON object per line: {"step": n, "bpb": ...} of training,
                             {"step": n, "validation_bpb": ...} of a validation; null where a number is not finite.
                             A step that was skipped also has "skipped": true, "batch" (its index) and "reason"
    workdir/tensorboard/     the same numbers for TensorBoard

Lines that cannot be written (a full disk) wait in memory, see `appended`: those of a run that dies meanwhile are missing.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Required, TypedDict

from scratchpatch.errors import UserError
from scratchpatch.files import open_regular, replace_text
from scratchpatch.json_files import Count, Malformed, parse, plain
from scratchpatch.training.appended import Appended
from scratchpatch.training.board import Board

_FILE = "metrics.jsonl"
_VALIDATION = "validation_bpb"


class _Line(TypedDict, total=False):
    step: Required[Count]
    bpb: float | None
    head_bpb: float | None
    validation_bpb: float | None
    skipped: bool
    batch: Count
    reason: str
    causality: str


class NoMetrics:
    """What the processes of a run have that do not write its metrics."""

    def truncate(self, last_step: int) -> None: ...

    def adopt(self, records: list[dict[str, Any]]) -> None: ...

    def write(self, step: int, values: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class MetricsWriter:
    """Appends metrics to a workdir; one process per run has one.

    The workdir is made where it is missing; a last line that a killed run left torn is dropped. Raises UserError where
    the workdir cannot be written, or metrics.jsonl holds a line that is none of metrics; `write` raises nothing.
    """

    def __init__(self, workdir: str | Path):
        self._path = Path(workdir) / _FILE
        self._board_path = Path(workdir) / "tensorboard"
        self._lines = Appended(self._path)
        self._board: Board | None = None
        self._purge_step = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch()
        except OSError as error:
            raise self._unwritable(error) from error
        self._keep(lambda record: True)

    def truncate(self, last_step: int) -> None:
        """Drop the lines of steps after `last_step`, which a run that resumes from there writes again; -1 drops all."""
        self.close()
        self._purge_step = last_step + 1
        self._keep(lambda record: record["step"] <= last_step)

    def adopt(self, records: list[dict[str, Any]]) -> None:
        """Begin with the lines of another run, which this one goes on from; what is there is dropped."""
        self.close()
        self._rewrite([_text(record) for record in records])

    def skipped_in_a_row(self, last: int, since: int) -> int:
        """How many of the steps up to `last` were skipped in a row, of those with an index from `since` on.

        A step without a line, which could not be written, counts as none that was skipped.
        """
        skipped = {record["step"] for record in _read(self._path) if record.get("skipped")}
        first = last
        while first > since and first in skipped:
            first -= 1
        return last - first

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one line; it is with the system when this returns, or waits for another try.

        values: names to numbers (Python, numpy, or jax scalars) or short texts.
        """
        values = {name: plain(value) for name, value in values.items()}
        if self._board is None:
            self._board = Board(self._board_path, self._purge_step)
        self._lines.add(_text({"step": int(step), **values}))
        self._board.add(int(step), {name: value for name, value in values.items() if isinstance(value, (int, float))})

    def close(self) -> None:
        """Close the files; a later write opens them again."""
        self._lines.close()
        if self._board is not None:
            self._board.close()
            self._board = None

    def _keep(self, wanted) -> None:
        """Drop the lines whose record is not wanted, in place where they are the last ones: a full disk allows that."""
        lines = _lines(self._path)
        kept = [line for number, line in enumerate(lines, start=1) if wanted(_record(self._path, number, line))]
        if kept != lines[: len(kept)]:
            self._rewrite(kept)
            return
        try:
            os.truncate(self._path, sum(len(line) + 1 for line in kept))
        except OSError as error:
            raise self._unwritable(error) from error

    def _rewrite(self, lines: list[bytes]) -> None:
        try:
            replace_text(self._path, b"".join(line.rstrip(b"\n") + b"\n" for line in lines).decode())
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(
            f"cannot write {self._path}: {error.strerror}; free space there, make it writable, or use another --workdir"
        )


def read_metrics(workdir: str | Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The lines of training and those of validation, in the order written; None where a number was not finite.

    A last line still being written is left out. Raises UserError where there is no metrics.jsonl, or a line of it is
    none of metrics.
    """
    records = read_all(workdir)
    training = [record for record in records if _VALIDATION not in record]
    return training, [record for record in records if _VALIDATION in record]


def read_all(workdir: str | Path) -> list[dict[str, Any]]:
    """All lines, in the order written. Raises UserError as `read_metrics` does."""
    path = Path(workdir) / _FILE
    if not path.is_file():
        raise UserError(f"{workdir} has no {_FILE}: train into it first")
    return _read(path)


def _read(path: Path) -> list[dict[str, Any]]:
    return [_record(path, number, line) for number, line in enumerate(_lines(path), start=1)]


def _lines(path: Path) -> list[bytes]:
    """The whole lines, without their newlines: a line counts once that is written."""
    try:
        with open_regular(path) as file:
            return file.read().split(b"\n")[:-1]
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from error


def _record(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = parse(line, _Line)
        wrong = next((name for name, value in record.items() if isinstance(value, (dict, list))), None)
        if wrong is not None:
            raise Malformed(f"{wrong}: Expected a number or a text")
    except Malformed as error:
        shown = repr(line[:80].decode(errors="replace"))
        raise UserError(f"{path}:{number}: {shown} is no line of metrics ({error}): remove that line") from error
    return record


def _text(record: dict[str, Any]) -> bytes:
    return json.dumps(record, allow_nan=False).encode() + b"\n"
