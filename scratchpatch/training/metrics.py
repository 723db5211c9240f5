"""What a run measured, step by step.

    workdir/metrics.jsonl    one JSON object per line: {"step": n, "bpb": ...} of training,
                             {"step": n, "validation_bpb": ...} of a validation; null where a number is not finite.
                             A step that was skipped also has "skipped": true, "batch" (its index) and "reason"
    workdir/tensorboard/     the same numbers for TensorBoard
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tensorboardX

from scratchpatch.errors import UserError
from scratchpatch.files import replace_text
from scratchpatch.json_files import plain

_FILE = "metrics.jsonl"
_VALIDATION = "validation_bpb"


class NoMetrics:
    """What the processes of a run have that do not write its metrics."""

    def truncate(self, last_step: int) -> None: ...

    def adopt(self, records: list[dict[str, Any]]) -> None: ...

    def write(self, step: int, values: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class MetricsWriter:
    """Appends metrics to a workdir; one process per run has one.

    The workdir is made where it is missing; a last line that a killed run left torn is dropped. Raises UserError where
    the workdir cannot be written, or metrics.jsonl holds a line that is none of metrics.
    """

    def __init__(self, workdir: str | Path):
        self._path = Path(workdir) / _FILE
        self._board_path = Path(workdir) / "tensorboard"
        self._board = None
        self._purge_step = None
        self._file = None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.touch()
        except OSError as error:
            raise self._unwritable(error) from error
        self._rewrite(_read(self._path))

    def truncate(self, last_step: int) -> None:
        """Drop the lines of steps after `last_step`, which a run that resumes from there writes again; -1 drops all."""
        self.close()
        self._purge_step = last_step + 1
        self._rewrite([record for record in _read(self._path) if record["step"] <= last_step])

    def adopt(self, records: list[dict[str, Any]]) -> None:
        """Begin with the lines of another run, which this one goes on from; what is there is dropped."""
        self.close()
        self._rewrite(records)

    def skipped_in_a_row(self, since: int) -> int:
        """How many of the last steps in a row were skipped, of those with an index from `since` on."""
        count = 0
        for record in reversed([record for record in _read(self._path) if _VALIDATION not in record]):
            if not record.get("skipped") or record["step"] <= since:
                break
            count += 1
        return count

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append one line, on the disk when this returns.

        values: names to numbers (Python, numpy, or jax scalars) or short texts.
        """
        values = {name: plain(value) for name, value in values.items()}
        try:
            self._open()
            self._file.write(json.dumps({"step": int(step), **values}, allow_nan=False) + "\n")
            self._file.flush()
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, global_step=int(step))
        except OSError as error:
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Flush and close the files; a later write opens them again."""
        if self._file is not None:
            self._file.close()
            self._board.close()
            self._file = self._board = None

    def _open(self) -> None:
        if self._file is None:
            self._file = self._path.open("a")
            # Without a suffix of its own, a file started in the same second as another one replaces it.
            number = len(list(self._board_path.glob("*")))
            self._board = tensorboardX.SummaryWriter(
                str(self._board_path), purge_step=self._purge_step, flush_secs=10, filename_suffix=f".{number}"
            )

    def _rewrite(self, records: list[dict[str, Any]]) -> None:
        try:
            replace_text(self._path, "".join(json.dumps(record) + "\n" for record in records))
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
    # A line counts once its newline is written.
    *lines, _torn = path.read_text(errors="replace").split("\n")
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not isinstance(record.get("step"), int):
                raise ValueError("no step")
        except (ValueError, AttributeError) as error:
            raise UserError(f"{path}:{number}: {line[:80]!r} is no line of metrics: remove that line") from error
        records.append(record)
    return records
