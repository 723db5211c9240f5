"""The checkpoints in a folder, read: see `checkpoints` for what lies there.

Orbax restores a flipped bit without a word, and wants no files but whole ones; so it is shown no others.

The run that owns the folder may be at work, and remove steps. It leaves one that is being read (see `lock.reading`) until its
next save, where the disk has locks. Who asked for the newest step and loses it all the same goes on with a newer one.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import jax
from absl import logging

from scratchpatch import config as config_lib
from scratchpatch import schema
from scratchpatch.checkpoints import arrays as stored_arrays
from scratchpatch.checkpoints import format as manifest
from scratchpatch.checkpoints import lock
from scratchpatch.checkpoints.format import Damaged, Unreadable
from scratchpatch.data.anchor import anchored
from scratchpatch.errors import UserError

# How often a newer step is tried where the one that was being read is removed.
TRIES = 20


class Removed(UserError):
    """A step that is not there any more, or is another one by that number: it was removed while it was read."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint holds.

    state: as the abstract state that was asked for, with arrays in place of its leaves.
    metadata: 'config' (flat, see config.flat), 'step', 'version', 'metrics' (name to number, text or None), 'arrays'
    (path to shape and dtype), 'files' (path to size in bytes and CRC-32).
    """

    step: int
    state: dict[str, Any]
    metadata: dict[str, Any]


class CheckpointReader:
    """Reads the checkpoints in a folder, and changes nothing there.

    Abstract states are dicts of pytrees of jax.ShapeDtypeStruct. A leaf's sharding says where its array goes, whatever
    devices it was saved from; without one it goes to the first device.
    """

    def __init__(self, folder: str | Path, config=None):
        """
        Args:
          config: of the run that wrote them, whose experiment every step must be; None: that is not compared.
        """
        self.folder = Path(folder).absolute()
        self._experiment = None if config is None else anchored(config)
        self._relative = [] if config is None else config_lib.changed(config, self._experiment)
        # What described the steps that were proven.
        self._proven: dict[int, dict[str, Any]] = {}

    def steps(self) -> list[int]:
        """The stored steps, oldest first, damaged ones included."""
        return sorted(step for name in self._names() if (step := manifest.number(name)) is not None)

    def path(self, step: int) -> Path:
        """The folder of a stored step. Raises UserError where it is missing."""
        if step not in (stored := self.steps()):
            raise UserError(f"{self.folder} holds no checkpoint of step {step}; stored steps: {', '.join(map(str, stored)) or 'none'}")
        return self.folder / str(step)

    def beside(self, *kinds: str) -> list[Path]:
        """The folders STEP.KIND that lie beside the steps, oldest step first.

        kinds: 'partial' and 'deleted' are left by a killed run (or belong to one at work), 'damaged' was set aside.
        """
        found = []
        for name in self._names():
            first, _, kind = name.partition(".")
            if kind in kinds and (step := manifest.number(first)) is not None:
                found.append((step, kind))
        return [self.folder / f"{step}.{kind}" for step, kind in sorted(found)]

    def _names(self) -> list[str]:
        try:
            return os.listdir(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise UserError(f"{self.folder} cannot be read: {error.strerror}") from error

    def restore_latest(self, abstract_state: dict[str, Any]) -> Restored | None:
        """The newest whole step, or None where no step was ever stored.

        Newer damaged ones are named in a warning. Raises UserError where every step is damaged, or where a whole one
        holds other arrays than `abstract_state`, or is another experiment's.
        """
        step = self._newest(abstract_state, partial=False)
        for _ in range(TRIES):
            if step is None:
                return None
            try:
                return self.read(step, abstract_state)
            except Removed:
                step = self._newest(abstract_state, partial=False)
        raise self.outrun()

    def restore(self, step: int, abstract_state: dict[str, Any]) -> Restored:
        """One step. Raises UserError where it is missing, damaged, another experiment's, or holds other arrays than `abstract_state`."""
        self.examine(step, abstract_state)
        return self.read(step, abstract_state)

    def whole(self, step: int | None, abstract_part: dict[str, Any]) -> int:
        """A step (None: the newest) whose files of some top-level keys are proven whole, with the arrays asked for.

        Raises UserError as `restore` does, and where nothing is stored.
        """
        if step is not None:
            self.examine(step, abstract_part, partial=True)
            return step
        newest = self._newest(abstract_part, partial=True)
        if newest is None:
            raise UserError(f"{self.folder} holds no checkpoint: train first")
        return newest

    def examine(self, step: int, abstract_state: dict[str, Any], partial: bool = False) -> None:
        """See that a step is whole and fits. Raises UserError as `restore` does."""
        path = self.path(step)
        try:
            self._examine(step, abstract_state, partial)
        except (Damaged, Unreadable) as error:
            # It may be gone by now, which is no damage.
            self.path(step)
            if isinstance(error, Unreadable):
                raise UserError(f"checkpoint {path} cannot be read now ({error}): try again") from error
            others = ", ".join(str(s) for s in self.steps() if s != step) or "none"
            raise UserError(f"checkpoint {path} is damaged ({error}); others: {others}") from error

    def removed(self, step: int) -> bool:
        """Whether a step is not any more the one that `examine` or `whole` has proven."""
        try:
            return manifest.read(self.folder / str(step)) != self._proven.get(step)
        except Damaged:
            return True
        except Unreadable:
            return False

    def outrun(self) -> UserError:
        """That a run at work is faster than whoever reads."""
        return UserError(
            f"every checkpoint of {self.folder} that was begun was removed before it was read, {TRIES} times, by the run at work "
            "there: wait for it, or let it keep more (training.keep_last)"
        )

    def _newest(self, abstract: dict[str, Any], partial: bool) -> int | None:
        """The newest whole step, None where no step was ever stored. Raises UserError where there are steps, but none whole."""
        step, bad = self._search(abstract, partial)
        if step is None:
            self._refuse(bad)
        return step

    def _search(self, abstract: dict[str, Any], partial: bool) -> tuple[int | None, dict[int, Damaged | Unreadable]]:
        """The newest whole step, and the newer ones, newest first, with what is wrong about them."""
        bad: dict[int, Damaged | Unreadable] = {}
        removed = 0
        # Looked at anew for each, because a run at work stores and removes steps meanwhile.
        while left := [step for step in self.steps() if step not in bad]:
            step = left[-1]
            try:
                self._examine(step, abstract, partial)
            except (Damaged, Unreadable) as error:
                if step in self.steps():
                    bad[step] = error
                    continue
                removed += 1
                if removed == TRIES:
                    raise self.outrun() from error
                continue
            for newer, error in bad.items():
                what = "is damaged" if isinstance(error, Damaged) else "cannot be read now"
                logging.warning("checkpoint %s %s (%s): using step %d", self.folder / str(newer), what, error, step)
            return step, bad
        return None, bad

    def _refuse(self, bad: dict[int, Damaged | Unreadable]) -> None:
        """Raise UserError where there are steps, but none to go on from."""
        if not bad:
            return
        reasons = "; ".join(f"step {step}: {error}" for step, error in bad.items())
        if any(isinstance(error, Unreadable) for error in bad.values()):
            raise UserError(f"no checkpoint in {self.folder} can be read now ({reasons}): try again when its disk answers")
        raise UserError(
            f"every checkpoint in {self.folder} is damaged ({reasons}): restore the folder from a copy, "
            "or remove it to start again from scratch"
        )

    def _examine(self, step: int, abstract: dict[str, Any], partial: bool) -> None:
        """Raise Damaged, Unreadable or, where the step holds other arrays or is another experiment's, UserError."""
        path = self.folder / str(step)
        about, targets = manifest.read(path), stored_arrays.named(abstract)
        changes = self._unlike(path, about)
        if changes:
            raise UserError(
                f"checkpoint {path} is of another experiment: {'; '.join(changes)}; move it away, or to where it belongs "
                "(training.continue_from branches off another run's checkpoint)"
            )
        _check_agreement(path, about, targets, partial)
        manifest.check(path, about, skipped={stored_arrays.group(n) for n in about["arrays"]} - {stored_arrays.group(n) for n in targets})
        self._proven[step] = about

    def _unlike(self, path: Path, about: dict[str, Any]) -> list[str]:
        """Lines 'field: there -> here' of what makes a step another experiment's. Raises Damaged where its config is none."""
        try:
            stored = schema.fields(about)
            if self._experiment is None:
                return []
            found = config_lib.from_flat(stored)
            theirs = anchored(found)
        except schema.Newer as error:
            raise UserError(f"cannot read {path}: {error}") from error
        except UserError as error:
            raise Damaged(f"about.json: {error}") from error
        # Older versions kept relative paths as they were, and nobody knows from which folder.
        for name in (*self._relative, *config_lib.changed(found, theirs)):
            config_lib.set_field(theirs, name, config_lib.get(self._experiment, name))
        return config_lib.difference(theirs, self._experiment)

    def read(self, step: int, abstract: dict[str, Any]) -> Restored:
        """The arrays of some top-level keys of a step that `examine` or `whole` has proven; the others are not read.

        Raises:
          Removed: it is not there any more.
          UserError: it cannot be read although its files are whole: they are not what they should be.
        """
        path = self.folder / str(step)
        try:
            with lock.reading(path / manifest.ABOUT):
                about = manifest.read(path)
                if self._proven.setdefault(step, about) != about:
                    raise Damaged("it is another one now")
                state = _arrays(path, about, abstract)
        except (Damaged, Unreadable, _Failed, OSError) as error:
            if not self.removed(step):
                raise UserError(f"checkpoint {path} cannot be read: {error}") from error
        else:
            # A file that was not there any more need not have failed.
            if not self.removed(step):
                return Restored(step, state, about)
        raise Removed(f"checkpoint {path} was removed while it was read, by the run at work there: ask for a newer one")


class _Failed(Exception):
    """Orbax cannot read what it is shown; says why."""


def _arrays(path: Path, about: dict[str, Any], abstract: dict[str, Any]) -> dict[str, Any]:
    """The abstract state with arrays in place of its leaves. Raises _Failed."""
    targets = stored_arrays.named(abstract)
    new, groups = schema.new(about, targets), {stored_arrays.group(name) for name in targets}
    wanted = {name: leaf for name, leaf in targets.items() if name not in new}
    # Orbax reads a group whole.
    for name in schema.gone(about, about["arrays"]):
        if stored_arrays.group(name) in groups:
            wanted[name] = stored_arrays.like(about["arrays"][name], beside=next(iter(targets.values())))
    try:
        found = dict(zip(wanted, stored_arrays.read(path / manifest.STATE, wanted), strict=True))
    except Exception as error:  # of any kind
        raise _Failed(manifest.first_line(error)) from error
    leaves = [found[name] if name in found else stored_arrays.zeros(leaf) for name, leaf in targets.items()]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def _check_agreement(path: Path, about: dict[str, Any], targets: dict[str, Any], partial: bool) -> None:
    """Raise UserError unless the stored arrays are those of the abstract state, as far as the schema of then had them."""
    new, gone = schema.new(about, targets), schema.gone(about, about["arrays"])
    targets = {name: leaf for name, leaf in targets.items() if name not in new}
    stored = {name: array for name, array in about["arrays"].items() if name not in gone}
    advice = "use the config that it was trained with, or another --workdir"
    for name, leaf in targets.items():
        if name not in stored:
            raise UserError(f"checkpoint {path} holds no array {name}: {advice}")
        there, here = stored[name], stored_arrays.shape_and_dtype(leaf)
        for what in ("shape", "dtype"):
            if there[what] != here[what]:
                both = f"has {what} {there[what]}, this model {here[what]}"
                raise UserError(f"checkpoint {path}: {name} {both}: {advice}")
    groups = {stored_arrays.group(name) for name in targets}
    surplus = [name for name in stored if name not in targets and (not partial or stored_arrays.group(name) in groups)]
    if surplus:
        raise UserError(f"checkpoint {path} holds an array {surplus[0]} that this model lacks: {advice}")
