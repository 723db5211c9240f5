"""The second storage tier of a run's checkpoints: copies on storage that outlives the machine.

    DURABLE_DIR/200/            as checkpoints/200 in the workdir, see `format`
    DURABLE_DIR/200.partial/    a step that is being copied
    DURABLE_DIR/run/            the workdir's small files as they were then: what a lost workdir needs beside a step

The folder is a path, or a URL that fsspec knows, such as gs://bucket/run. Where a rename is not atomic, about.json and
its checksums still are the proof of a step: no half step is ever taken for a whole one.
"""

import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

from absl import logging

from scratchpatch.checkpoints import format
from scratchpatch.checkpoints.format import Damaged, Folder, StepFolder
from scratchpatch.data import paths
from scratchpatch.errors import first_line
from scratchpatch.files import replace_text, size_and_checksum

# Seconds before another try, and seconds without a byte copied after which the end of a run waits no longer.
_PAUSES = (1.0, 4.0, 16.0)
_STALLED = 60.0
# The most steps that a line about missing copies names.
_NAMED = 8
_RUN, _FILES = "run", ("data.json", "settings.json", "metrics.jsonl", "goodput.jsonl")


def copy(step: Folder, target: Folder, advance: Callable[[int], None]) -> None:
    """Copy a step to a new folder, about.json last, and read the copy again, so that every byte of it is proven.
    `advance` is called with the bytes of every piece that was copied or read. Raises Damaged where the step or its copy
    is; Unreadable; OSError where the copy cannot be written.
    """
    about = format.read_about(step)
    for name, recorded in about["files"].items():
        name = f"{format.STATE}/{name}"
        source, path = (format.path_below(folder, name) for folder in (step, target))
        paths.make_folder(path.rpartition("/")[0])
        with paths.system(path).open(path, "wb") as out:

            def put(piece: bytes, out=out) -> None:
                out.write(piece)
                advance(len(piece))

            try:
                # There is no second try, which would write what the first one has written once more.
                with paths.open_read(source) as file:
                    written = size_and_checksum(file, put)
            except OSError as error:
                if format.is_missing(error):
                    raise Damaged(f"{name} cannot be read: {error.strerror or first_line(error)}") from error
                raise
        if written != recorded:
            raise Damaged(f"the size or checksum of {name} is wrong")
    format.write_about(target, about)
    format.check_files(target, format.read_about(target), advance=advance)


class Tier(StepFolder):
    """The steps in training.durable_dir."""

    def store(self, step: Path, keep: int, advance: Callable[[int], None] = lambda count: None) -> None:
        """Copy a step of the workdir, verified, then delete all but the newest `keep` up to it. A step that is there
        whole is left; a later one, which the run did not take, stays until it is stored anew. Raises Damaged or
        Unreadable where the step in the workdir is.
        """
        number, target = int(step.name), self.location(step.name)
        if not self._holds(step, advance):
            partial = self.location(f"{step.name}.partial")
            _remove(partial)
            copy(step, partial, advance)
            _remove(target)
            paths.system(target).mv(partial, target, recursive=True)
        for old in [each for each in self.steps() if each <= number][:-keep]:
            _remove(self.location(old))
        for name in self.beside("partial"):
            _remove(self.location(name))

    def fetch(self, step: int, target: Path) -> None:
        """Copy a step to the new local folder `target`, verified. Raises Damaged or Unreadable."""
        _remove(str(target))
        copy(self.location(step), target, lambda count: None)

    def store_files(self, workdir: Path) -> None:
        """Copy the small files of a run."""
        for name in _FILES:
            if (workdir / name).exists():
                paths.make_folder(paths.join(self.folder, _RUN))
                paths.write_text(paths.join(self.folder, _RUN, name), (workdir / name).read_text(errors="replace"))

    def fetch_files(self, workdir: Path) -> None:
        """Copy those small files of a run that the workdir lacks."""
        for name in _FILES:
            source = paths.join(self.folder, _RUN, name)
            if not (workdir / name).exists() and paths.is_file(source):
                with paths.open_read(source) as file:
                    replace_text(workdir / name, file.read().decode(errors="replace"))

    def _holds(self, step: Path, advance: Callable[[int], None]) -> bool:
        stored = self.location(step.name)
        try:
            about = format.read_about(stored)
            return about == format.read_about(step) and format.check_files(stored, about, advance=advance) is None
        except Damaged:
            return False


class Mirror:
    """Copies the steps of a folder to a storage tier in the background, the newest first; training never waits for it.
    The first failure is a warning, and the copy is tried again; a step that still could not be copied when a newer one
    comes is left out. The log says when copies succeed again, and at the end which steps are missing.
    """

    def __init__(self, tier: Tier, folder: Path, keep: int):
        self._tier, self._folder, self._keep = tier, folder, keep
        self._changed = threading.Condition()
        self._waiting: int | None = None
        self._copying: int | None = None
        self._missing: list[int] = []
        self._moved = time.monotonic()

    def push(self, step: int) -> None:
        """Have a step copied that lies whole in the folder."""
        with self._changed:
            if self._copying is None:
                self._copying = step
                # The thread is a daemon, because a dead mount can hold it for ever. It ends when nothing waits.
                threading.Thread(target=self._work, args=(step,), name="durable", daemon=True).start()
            else:
                self._waiting = step
                self._changed.notify_all()

    def held(self) -> set[int]:
        """The steps that must not be deleted yet."""
        with self._changed:
            return {step for step in (self._waiting, self._copying) if step is not None}

    def close(self) -> None:
        """Wait for what was pushed, as long as bytes move."""
        self._moved = time.monotonic()
        while held := self.held():
            if time.monotonic() - self._moved > _STALLED:
                logging.warning("%s does not answer: step %d is on the local disk alone", self._tier.folder, max(held))
                return
            with self._changed:
                self._changed.wait(0.2)
        if self._missing:
            logging.info("%s does not have the last steps: %s", self._tier.folder, ", ".join(map(str, self._missing)))

    def _work(self, step: int | None) -> None:
        while step is not None:
            self._copy(step)
            with self._changed:
                step = self._copying = self._waiting
                self._waiting = None
                self._changed.notify_all()

    def _copy(self, step: int) -> None:
        folder = self._tier.folder
        for pause in (*_PAUSES, None):
            try:
                self._tier.store(self._folder / str(step), self._keep, self._note)
                self._tier.store_files(self._folder.parent)
            except Exception as error:  # file systems raise their own kinds
                if not self._missing:
                    says = f"cannot copy step {step} to {folder} ({first_line(error)})"
                    logging.warning("%s; the run goes on, and tries again", says)
            else:
                if self._missing:
                    lacks = ", ".join(str(each) for each in self._missing if each != step) or "none"
                    logging.info("%s is written again: it has step %d, and lacks: %s", folder, step, lacks)
                self._missing = []
                return
            if step not in self._missing:
                self._missing = [*self._missing, step][-_NAMED:]
            with self._changed:
                if pause is None or self._changed.wait_for(lambda: self._waiting is not None, pause):
                    return
            self._note(0)

    def _note(self, _: int) -> None:
        self._moved = time.monotonic()


def fetch_files(config, workdir: Path) -> None:
    """Give a workdir that was lost what its run had measured, from the durable tier, if there is one. A tier that
    cannot be reached is a warning here: whether the run can go on without it is for its checkpoints to say.
    """
    folder = config.training.durable_dir
    try:
        if folder:
            Tier(folder).fetch_files(workdir)
    except Exception as error:  # file systems raise their own kinds
        logging.warning("cannot read %s: %s", folder, first_line(error))


def _remove(step: str) -> None:
    """Delete a step where it is, or a link to one; a kill in between leaves none that looks whole."""
    if not paths.is_url(step) and os.path.islink(step):
        os.unlink(step)
    else:
        paths.remove(paths.join(step, format.ABOUT))
        paths.remove(step)
