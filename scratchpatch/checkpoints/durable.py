"""The second tier of a run's checkpoints: copies on storage that outlives the machine.

    DURABLE_DIR/200/            as checkpoints/200 in the workdir, see checkpoints
    DURABLE_DIR/200.partial/    while it is copied
    DURABLE_DIR/run/            the workdir's small files as they were then: what a lost workdir needs beside a step

Paths go through etils.epath, so a bucket (gs://...) serves where its credentials are. Where a rename is not atomic,
about.json and its checksums still are the proof of a step: no half step is ever taken for a whole one.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from pathlib import Path

from absl import logging
from etils import epath

from scratchpatch.checkpoints import format as manifest
from scratchpatch.checkpoints.format import Damaged
from scratchpatch.files import replace_text

# Seconds before another try, and without a byte moved after which the end of a run waits no longer.
_PAUSES = (1.0, 4.0, 16.0)
_STALLED = 60.0
# The most steps that a line about those that are missing names.
_NAMED = 8
_RUN, _FILES = "run", ("data.json", "settings.json", "metrics.jsonl", "goodput.jsonl")


class Tier:
    """The steps in a folder of any file system that etils.epath knows.

    Whatever cannot be reached raises what that file system raises: OSError, or its own kind.
    """

    def __init__(self, folder: str):
        self.folder = epath.Path(folder)

    def steps(self) -> list[int]:
        """The stored steps, oldest first, damaged ones included."""
        return sorted(step for name in self._names() if (step := manifest.number(name)) is not None)

    def beside(self, *kinds: str) -> list[epath.Path]:
        """The folders STEP.KIND that lie beside the steps."""
        found = [(name, *name.partition(".")[::2]) for name in sorted(self._names())]
        return [self.folder / name for name, step, kind in found if kind in kinds and manifest.number(step) is not None]

    def store(self, step: Path, keep: int, moved=lambda count: None) -> None:
        """Copy a step of the workdir, verified, then delete all but the newest `keep` up to it.

        One that is there whole is left; a later one, which the run did not take, stays until it is stored anew.

        Raises:
          Damaged, Unreadable: the step in the workdir is.
        """
        target = self.folder / step.name
        if not self._holds(step, moved):
            partial = self.folder / f"{step.name}.partial"
            _remove(partial)
            manifest.copy(step, partial, moved)
            _remove(target)
            partial.rename(target)
        for old in [each for each in self.steps() if each <= int(step.name)][:-keep]:
            _remove(self.folder / str(old))
        for leftover in self.beside("partial"):
            _remove(leftover)

    def fetch(self, step: int, into: Path) -> None:
        """Copy a step to the new local folder `into`, verified. Raises Damaged, Unreadable."""
        _remove(into)
        manifest.copy(self.folder / str(step), into, lambda count: None)

    def store_files(self, workdir: Path) -> None:
        """Copy the small files of a run."""
        for name in _FILES:
            if (workdir / name).exists():
                target = self.folder / _RUN / name
                target.parent.mkdir(parents=True, exist_ok=True)
                text = (workdir / name).read_text(errors="replace")
                # A bucket shows an object once it is whole.
                (target.write_text if "://" in str(target) else functools.partial(replace_text, target))(text)

    def fetch_files(self, workdir: Path) -> None:
        """Copy those of them that the workdir lacks."""
        for name in _FILES:
            if not (workdir / name).exists() and (self.folder / _RUN / name).exists():
                replace_text(workdir / name, (self.folder / _RUN / name).read_bytes().decode(errors="replace"))

    def _holds(self, step: Path, moved) -> bool:
        try:
            about = manifest.read(self.folder / step.name)
            if about != manifest.read(step):
                return False
            manifest.check(self.folder / step.name, about, skipped=(), seen=moved)
        except Damaged:
            return False
        return True

    def _names(self) -> list[str]:
        try:
            return [path.name for path in self.folder.iterdir()] if self.folder.exists() else []
        except FileNotFoundError:  # since then
            return []


class Mirror:
    """Copies the steps of a folder to a tier in the background, the newest first; training never waits for it.

    The first failure is a warning, and all are tried again; a step that is still not there when a newer one comes is left
    out. The log says when copies succeed again, and at the end which steps are missing.
    """

    def __init__(self, tier: Tier, folder: Path, keep: int):
        self._tier, self._folder, self._keep = tier, folder, keep
        self._changed = threading.Condition()
        self._waiting: int | None = None
        self._copying: int | None = None
        self._missing: list[int] = []
        self._moved = time.monotonic()
        # A daemon, because a dead mount can hold a thread for ever.
        threading.Thread(target=self._work, name="durable", daemon=True).start()

    def push(self, step: int) -> None:
        """Have a step copied that lies whole in the folder."""
        with self._changed:
            self._waiting = step
            self._changed.notify_all()

    def held(self) -> set[int]:
        """The steps that must not be deleted yet."""
        with self._changed:
            return {step for step in (self._waiting, self._copying) if step is not None}

    def close(self) -> None:
        """Wait for what was pushed, as long as it moves."""
        self._moved = time.monotonic()
        while held := self.held():
            if time.monotonic() - self._moved > _STALLED:
                logging.warning("%s does not answer: step %d is on the local disk alone", self._tier.folder, max(held))
                return
            with self._changed:
                self._changed.wait(0.2)
        if self._missing:
            logging.info("%s does not have the last steps: %s", self._tier.folder, ", ".join(map(str, self._missing)))

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None)
                step, self._waiting = self._waiting, None
                self._copying = step
            self._copy(step)
            with self._changed:
                self._copying = None
                self._changed.notify_all()

    def _copy(self, step: int) -> None:
        for pause in (*_PAUSES, None):
            try:
                self._tier.store(self._folder / str(step), self._keep, self._note)
                self._tier.store_files(self._folder.parent)
            except Exception as error:  # file systems raise their own kinds
                if not self._missing:
                    reason = manifest.first_line(error)
                    logging.warning("cannot copy step %d to %s (%s); the run goes on, and tries again", step, self._tier.folder, reason)
            else:
                if self._missing:
                    lacks = ", ".join(str(each) for each in self._missing if each != step) or "none"
                    logging.info("%s is written again: it has step %d, and lacks: %s", self._tier.folder, step, lacks)
                self._missing = []
                return
            if step not in self._missing:
                self._missing = [*self._missing, step][-_NAMED:]
            with self._changed:
                if pause is None or self._changed.wait_for(lambda: self._waiting is not None, pause):
                    break
            self._note(0)

    def _note(self, _: int) -> None:
        self._moved = time.monotonic()


def fetch_files(config, workdir: Path) -> None:
    """Give a workdir that was lost what its run had measured, from the durable tier, if there is one.

    A tier that cannot be reached is a warning here: whether the run can go on without it is for its checkpoints to say.
    """
    if not config.training.durable_dir:
        return
    try:
        Tier(config.training.durable_dir).fetch_files(workdir)
    except Exception as error:  # file systems raise their own kinds
        logging.warning("cannot read %s: %s", config.training.durable_dir, manifest.first_line(error))


def _remove(step: Path) -> None:
    """Delete a step where it is, or a link to one; a kill in between leaves none that looks whole."""
    if "://" not in str(step) and os.path.islink(step):
        os.unlink(step)
    elif step.exists():
        manifest.revoke(step)
        epath.Path(step).rmtree()
