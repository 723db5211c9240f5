"""The checkpoints in a folder, read: see `format` for what lies there.

Orbax restores a flipped bit without a word, and wants no files but whole ones, so it is shown no others.

The run that owns the folder may be at work, and remove steps. It leaves a step that is being read (see `lock.reading`)
until its next save, where the disk has locks. Whoever asked for the newest step and loses it goes on with a newer one.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
from absl import logging

from scratchpatch import config as config_lib, schema
from scratchpatch.checkpoints import arrays, format, lock
from scratchpatch.checkpoints.format import Damaged, NotWhole, StepFolder, Unreadable
from scratchpatch.data.anchor import anchored
from scratchpatch.errors import UserError, first_line

# How often a newer step is tried where the one that was being read is removed.
TRIES = 20


class Removed(UserError):
    """A step that is not there any more, or is another one by that number: it was removed while it was read."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """What a checkpoint holds."""

    step: int
    state: dict[str, Any]  # as the abstract state that was asked for, with arrays in place of its leaves
    metadata: dict[str, Any]  # the description of the step, see `format.About`


class CheckpointReader(StepFolder):
    """Reads the checkpoints in a folder, and changes nothing there. Abstract states are dicts of pytrees of
    jax.ShapeDtypeStruct. A leaf's sharding says where its array goes, whatever devices it was saved from; without a
    sharding it goes to the first device.
    """

    def __init__(self, folder: str | Path, config=None):
        """config: of the run that wrote the steps, whose experiment each must be; None: that is not compared."""
        super().__init__(Path(folder).absolute())
        self._experiment = None if config is None else anchored(config)
        self._relative = [] if config is None else config_lib.changed(config, self._experiment)
        # The descriptions of the steps that were proven whole.
        self._proven: dict[int, dict[str, Any]] = {}

    def path(self, step: int) -> Path:
        """The folder of a stored step. Raises UserError where it is missing."""
        if step not in (stored := self.steps()):
            others = ", ".join(map(str, stored)) or "none"
            raise UserError(f"{self.folder} holds no checkpoint of step {step}; stored steps: {others}")
        return self.folder / str(step)

    def _names(self) -> list[str]:
        try:
            return super()._names()
        except NotADirectoryError:
            return []
        except OSError as error:
            raise UserError(f"{self.folder} cannot be read: {error.strerror}") from error

    def restore_latest(self, abstract_state: dict[str, Any]) -> Restored | None:
        """The newest whole step, or None where no step was ever stored. Newer damaged ones are named in a warning.
        Raises UserError where every step is damaged, or where a whole one holds other arrays than `abstract_state`, or
        is another experiment's.
        """
        for _ in range(TRIES):
            step = self.prove(None, abstract_state)
            try:
                return None if step is None else self.read(step, abstract_state)
            except Removed:
                continue
        raise self.outrun()

    def restore(self, step: int, abstract_state: dict[str, Any]) -> Restored:
        """One step. Raises UserError as `prove` does."""
        return self.read(self.prove(step, abstract_state), abstract_state)

    def whole(self, step: int | None, abstract_part: dict[str, Any]) -> int:
        """As `prove`, for some top-level keys alone. Raises UserError also where nothing is stored."""
        proven = self.prove(step, abstract_part, partial=True)
        if proven is None:
            raise UserError(f"{self.folder} holds no checkpoint: train first")
        return proven

    def prove(self, step: int | None, abstract_state: dict[str, Any], partial: bool = False) -> int | None:
        """See that a step is whole and holds the arrays asked for; without a step, the newest such step. With
        `partial`, only the stored arrays of the top-level keys of `abstract_state` are looked at. Returns None where no
        step was ever stored. Raises UserError where the step is missing, damaged, another experiment's, or holds other
        arrays; without a step, where none is whole.
        """
        if step is None:
            newest, errors = self._search(abstract_state, partial)
            if newest is None:
                self._refuse(errors)
            return newest
        path = self.path(step)
        try:
            self._examine(step, abstract_state, partial)
            return step
        except NotWhole as error:
            # It may be gone by now, which is no damage.
            self.path(step)
            if isinstance(error, Unreadable):
                raise UserError(f"checkpoint {path} cannot be read now ({error}): try again") from error
            others = ", ".join(str(other) for other in self.steps() if other != step) or "none"
            raise UserError(f"checkpoint {path} is damaged ({error}); others: {others}") from error

    def reached(self, steps: int) -> int | None:
        """The newest stored step, where it is at least so many, whole, and this experiment's; None where it is not. Its
        arrays are not compared with any model's. Raises UserError where a newer version wrote it.
        """
        newest = max(self.steps(), default=0)
        if newest < steps or newest == 0:
            return None
        path = self.folder / str(newest)
        try:
            about = format.read_about(path)
            if self._differences(path, about):
                return None
            format.check_files(path, about)
        except NotWhole:
            return None
        return newest

    def removed(self, step: int) -> bool:
        """Whether a step is not any more the one that `prove` has proven."""
        try:
            return format.read_about(self.folder / str(step)) != self._proven.get(step)
        except NotWhole as error:
            return isinstance(error, Damaged)

    def outrun(self) -> UserError:
        """The error that a run at work is faster than whoever reads."""
        removed = f"every checkpoint of {self.folder} that was begun was removed before it was read, {TRIES} times"
        return UserError(f"{removed}, by the run at work there: wait for it, or let it keep more (training.keep_last)")

    def _search(self, abstract: dict[str, Any], partial: bool) -> tuple[int | None, dict[int, NotWhole]]:
        """The newest whole step, and the newer ones, newest first, with what is wrong about them."""
        errors: dict[int, NotWhole] = {}
        removed = 0
        # The folder is listed anew for each step, because a run at work stores and removes steps meanwhile.
        while candidates := [step for step in self.steps() if step not in errors]:
            step = candidates[-1]
            try:
                self._examine(step, abstract, partial)
            except NotWhole as error:
                if step in self.steps():
                    errors[step] = error
                    continue
                removed += 1
                if removed == TRIES:
                    raise self.outrun() from error
                continue
            for newer, error in errors.items():
                what = "is damaged" if isinstance(error, Damaged) else "cannot be read now"
                logging.warning("checkpoint %s %s (%s): using step %d", self.folder / str(newer), what, error, step)
            return step, errors
        return None, errors

    def _refuse(self, errors: dict[int, NotWhole]) -> None:
        """Raise UserError where there are steps, but none to go on from."""
        if not errors:
            return
        reasons = "; ".join(f"step {step}: {error}" for step, error in errors.items())
        if any(isinstance(error, Unreadable) for error in errors.values()):
            unread = f"no checkpoint in {self.folder} can be read now ({reasons})"
            raise UserError(f"{unread}: try again when its disk answers")
        damaged = f"every checkpoint in {self.folder} is damaged ({reasons})"
        raise UserError(f"{damaged}: restore the folder from a copy, or remove it to start again from scratch")

    def _examine(self, step: int, abstract: dict[str, Any], partial: bool) -> None:
        """Raise NotWhole or, where the step holds other arrays or is another experiment's, UserError."""
        path = self.folder / str(step)
        about, targets = format.read_about(path), arrays.by_path(abstract)
        if changes := self._differences(path, about):
            other = f"checkpoint {path} is of another experiment: {'; '.join(changes)}"
            fix = "move it away, or to where it belongs (training.continue_from branches off another run's checkpoint)"
            raise UserError(f"{other}; {fix}")
        _check_arrays(path, about, targets, partial)
        unwanted = {arrays.top_key(name) for name in about["arrays"]} - {arrays.top_key(name) for name in targets}
        format.check_files(path, about, skipped=unwanted)
        self._proven[step] = about

    def _differences(self, path: str | Path, about: dict[str, Any]) -> list[str]:
        """Lines 'field: there -> here' of what makes a step another experiment's. Raises Damaged, UserError."""
        try:
            stored = schema.fields(about)
            if self._experiment is None:
                return []
            config = config_lib.from_flat(stored)
            theirs = anchored(config)
        except schema.Newer as error:
            raise UserError(f"cannot read {path}: {error}") from error
        except UserError as error:
            raise Damaged(f"about.json: {error}") from error
        # Older versions kept relative paths as they were, and nobody knows from which folder.
        for name in (*self._relative, *config_lib.changed(config, theirs)):
            config_lib.set_field(theirs, name, config_lib.get(self._experiment, name))
        return config_lib.difference(theirs, self._experiment)

    def read(self, step: int, abstract: dict[str, Any]) -> Restored:
        """The arrays of some top-level keys of a step that `prove` has proven; the others are not read. Raises Removed
        where it is not there any more; UserError where it is whole, but not what it should be.
        """
        path = self.folder / str(step)
        try:
            with lock.reading(path / format.ABOUT):
                about = format.read_about(path)
                if self._proven.setdefault(step, about) != about:
                    raise Damaged("it is another one now")
                state = _state(path, about, abstract)
        except Exception as error:  # orbax raises any kind
            if not self.removed(step):
                raise UserError(f"checkpoint {path} cannot be read: {first_line(error)}") from error
        else:
            # A file that was not there any more need not have made the read fail.
            if not self.removed(step):
                return Restored(step, state, about)
        raise Removed(f"checkpoint {path} was removed while it was read, by the run at work there: ask for a newer one")


def _state(path: Path, about: dict[str, Any], abstract: dict[str, Any]) -> dict[str, Any]:
    """The abstract state with arrays in place of its leaves. Raises whatever orbax raises."""
    targets = arrays.by_path(abstract)
    new, keys = schema.new(about, targets), {arrays.top_key(name) for name in targets}
    wanted = {name: leaf for name, leaf in targets.items() if name not in new}
    # Orbax reads a top-level key whole.
    for name in schema.gone(about, about["arrays"]):
        if arrays.top_key(name) in keys:
            wanted[name] = arrays.replicated_target(about["arrays"][name], beside=next(iter(targets.values())))
    loaded = dict(zip(wanted, arrays.load(path / format.STATE, wanted), strict=True))
    leaves = [loaded[name] if name in loaded else arrays.zeros(leaf) for name, leaf in targets.items()]
    return jax.tree.unflatten(jax.tree.structure(abstract), leaves)


def _check_arrays(path: Path, about: dict[str, Any], targets: dict[str, Any], partial: bool) -> None:
    """Raise UserError unless the stored arrays are those of the abstract state, as far as their schema had them."""
    new, gone = schema.new(about, targets), schema.gone(about, about["arrays"])
    targets = {name: leaf for name, leaf in targets.items() if name not in new}
    stored = {name: array for name, array in about["arrays"].items() if name not in gone}
    advice = "use the config that it was trained with, or another --workdir"
    for name, leaf in targets.items():
        if name not in stored:
            raise UserError(f"checkpoint {path} holds no array {name}: {advice}")
        there, here = stored[name], arrays.shape_and_dtype(leaf)
        for what in ("shape", "dtype"):
            if there[what] != here[what]:
                says = f"{name} has {what} {there[what]}, this model {here[what]}"
                raise UserError(f"checkpoint {path}: {says}: {advice}")
    keys = {arrays.top_key(name) for name in targets}
    for name in stored:
        if name not in targets and (not partial or arrays.top_key(name) in keys):
            raise UserError(f"checkpoint {path} holds an array {name} that this model lacks: {advice}")
