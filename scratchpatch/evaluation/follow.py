"""An evaluator beside a run at work: it measures each checkpoint as it appears, and writes a line of numbers for it.

The lines are in WORKDIR/evaluations/follow.jsonl; those of other text, or of overrides, in a file of their own there,
whose name ends in a checksum of these. Nothing that the trainer writes is touched: it leaves a step that is being read
until its next save, and a step that it removed before is left out for a newer one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from scratchpatch import json_files
from scratchpatch.checkpoints import format, settings
from scratchpatch.checkpoints.reader import CheckpointReader
from scratchpatch.checkpoints.workdir import load_config
from scratchpatch.distributed import processes
from scratchpatch.errors import UserError
from scratchpatch.evaluation.evaluate import Asked, measure
from scratchpatch.evaluation.scores import FILE, FOLDER, Scores
from scratchpatch.inference.loading import load

# Of an evaluation's result, what a line leaves out: it has a page of its own.
_LONG = ("bpb_by_offset", "bytes_by_offset", "compressors", "compressed_bytes")


def follow(
    workdir: str | Path, asked: Asked, poll_seconds: float, devices: int | None = None,
    mesh: Mapping[str, int] | None = None,
) -> Iterator[dict[str, Any]]:
    """Measure the checkpoints of a run, the oldest first, and yield each one's line once it is written. Ends when the
    run's last step is measured. All processes must iterate alike.

    Args:
      asked: the text, and what is changed of the model.
      poll_seconds: between two looks for a new checkpoint.
      devices, mesh: see `loading.load`.
    Raises:
      UserError: an exported model; text or overrides that cannot be used; another process follows for the same file.
    """
    watch = _Watch(Path(workdir), asked, poll_seconds)
    with contextlib.ExitStack() as closed:

        def begin() -> None:
            closed.enter_context(watch.scores)

        processes.first(begin)
        while (step := processes.first(watch.next_step)) is not None:
            try:
                lm = load(workdir, step, devices, mesh)
            except UserError:
                if not processes.first(lambda step=step: watch.leaves_out(step)):
                    raise
                continue
            result = measure(lm, workdir, asked, compressor_bytes=0).result
            line = {"time": time.time()} | {name: value for name, value in result.items() if name not in _LONG}
            processes.first(lambda line=line: watch.scores.add(line))
            yield line


class _Watch:
    """What the first process knows of a run: which steps are there, measured, or not to be read."""

    def __init__(self, workdir: Path, asked: Asked, poll_seconds: float):
        self._workdir, self._seconds = workdir, poll_seconds
        self._folder = workdir / "checkpoints"
        self.scores = Scores(workdir / FOLDER / _file_name(asked))
        # Damaged steps: a trainer that goes on may write another one under the number.
        self._passed: dict[int, tuple[int, int]] = {}
        self._waits = False

    def next_step(self) -> int | None:
        """The oldest step that is not measured, as soon as there is one; None: the run's last one is measured."""
        if any(self._workdir.glob("*.safetensors")):
            raise UserError(f"{self._workdir} is an exported model, which gets no new checkpoints: leave out --follow")
        while True:
            # Before the steps are listed: the last one may be stored in between.
            last = self._last()
            stored = CheckpointReader(self._folder).steps()
            for step in stored:
                if step not in self.scores.steps and self._passed.get(step) != self._identity(step):
                    self._waits = False
                    return step
            if max((*self.scores.steps, -1)) >= last:
                return None
            if not self._waits:
                self._waits = True
                logging.info("%s has no further checkpoint yet: looking every %g s", self._folder, self._seconds)
            time.sleep(self._seconds)

    def leaves_out(self, step: int) -> bool:
        """Whether a step that could not be loaded is at fault: removed, damaged or unreadable; a line says which."""
        path = self._folder / str(step)
        try:
            format.check_files(path, format.read_about(path))
        except format.NotWhole as error:
            if not path.exists():
                logging.warning("step %d was removed before it was read: a newer one is taken", step)
                return True
            if isinstance(error, format.Damaged):
                self._passed[step] = self._identity(step)
            logging.warning("step %d is left out: %s", step, error)
            time.sleep(self._seconds)
            return True
        return False

    def _last(self) -> float:
        """The run's last step; infinite where it is not known yet."""
        try:
            if (self._workdir / settings.FILE).exists():
                return settings.read(self._workdir)[-1][1]["training.steps"]
            return load_config(self._workdir).training.steps
        except UserError:
            return math.inf

    def _identity(self, step: int) -> tuple[int, int]:
        with contextlib.suppress(OSError):
            stat = (self._folder / str(step)).stat()
            return stat.st_ino, stat.st_mtime_ns
        return 0, 0


def _file_name(asked: Asked) -> str:
    """That of the lines of the run's own validation split on the unchanged model, or one of its own."""
    if asked == Asked():
        return FILE
    stem, ending = FILE.split(".")
    return f"{stem}-{json_files.seal(dataclasses.asdict(asked))[:8]}.{ending}"
