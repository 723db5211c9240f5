"""The checkpoints in a folder, read: see `checkpoints` for what lies there.

Orbax restores a flipped bit without a word, and wants no files but whole ones; so it is shown no others.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
from absl import logging

from scratchpatch import schema
from scratchpatch.errors import UserError
from scratchpatch.training import manifest, stored_arrays
from scratchpatch.training.manifest import Damaged, Unreadable


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

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).absolute()

    def steps(self) -> list[int]:
        """The stored steps, oldest first, damaged ones included."""
        if not self.folder.is_dir():
            return []
        return sorted(int(path.name) for path in self.folder.iterdir() if path.name.isdecimal())

    def path(self, step: int) -> Path:
        """The folder of a stored step. Raises UserError where it is missing."""
        if step not in self.steps():
            stored = ", ".join(map(str, self.steps())) or "none"
            raise UserError(f"{self.folder} holds no checkpoint of step {step}; stored steps: {stored}")
        return self.folder / str(step)

    def beside(self, *kinds: str) -> list[Path]:
        """The folders STEP.KIND that lie beside the steps, oldest step first.

        kinds: 'partial' and 'deleted' are left by a killed run (or belong to one at work), 'damaged' was set aside.
        """
        if not self.folder.is_dir():
            return []
        named = [(path.name.partition("."), path) for path in self.folder.iterdir()]
        found = [(int(step), kind, path) for (step, _, kind), path in named if step.isdecimal() and kind in kinds]
        return [path for _, _, path in sorted(found)]

    def restore_latest(self, abstract_state: dict[str, Any]) -> Restored | None:
        """The newest whole step, or None where no step was ever stored.

        Newer damaged ones are named in a warning. Raises UserError where every step is damaged, or where a whole one
        holds other arrays than `abstract_state`.
        """
        step = self._newest(abstract_state, partial=False)
        return None if step is None else self.read(step, abstract_state)

    def restore(self, step: int, abstract_state: dict[str, Any]) -> Restored:
        """One step. Raises UserError where it is missing, damaged, or holds other arrays than `abstract_state`."""
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
        except Damaged as error:
            others = ", ".join(str(s) for s in self.steps() if s != step) or "none"
            raise UserError(f"checkpoint {path} is damaged ({error}); others: {others}") from error
        except Unreadable as error:
            raise UserError(f"checkpoint {path} cannot be read now ({error}): try again") from error

    def _newest(self, abstract: dict[str, Any], partial: bool) -> int | None:
        """The newest whole step, None where no step was ever stored. Raises UserError where there are steps, but none whole."""
        step, bad = self._search(abstract, partial)
        if step is None:
            self._refuse(bad)
        return step

    def _search(self, abstract: dict[str, Any], partial: bool) -> tuple[int | None, dict[int, Damaged | Unreadable]]:
        """The newest whole step, and the newer ones, newest first, with what is wrong about them."""
        bad: dict[int, Damaged | Unreadable] = {}
        for step in reversed(self.steps()):
            try:
                self._examine(step, abstract, partial)
            except (Damaged, Unreadable) as error:
                bad[step] = error
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
        """Raise Damaged, Unreadable or, where the step holds other arrays, UserError."""
        path = self.folder / str(step)
        about, targets = manifest.read(path), stored_arrays.named(abstract)
        _check_agreement(path, about, targets, partial)
        manifest.check(path, about, skipped={stored_arrays.group(n) for n in about["arrays"]} - {stored_arrays.group(n) for n in targets})

    def read(self, step: int, abstract: dict[str, Any]) -> Restored:
        """The arrays of some top-level keys of a step that `examine` or `whole` has proven; the others are not read."""
        path = self.folder / str(step)
        about, targets = manifest.read(path), stored_arrays.named(abstract)
        new, groups = schema.new(about, targets), {stored_arrays.group(name) for name in targets}
        wanted = {name: leaf for name, leaf in targets.items() if name not in new}
        # Orbax reads a group whole.
        for name in schema.gone(about, about["arrays"]):
            if stored_arrays.group(name) in groups:
                wanted[name] = stored_arrays.like(about["arrays"][name], beside=next(iter(targets.values())))
        found = dict(zip(wanted, stored_arrays.read(path / manifest.STATE, wanted), strict=True))
        leaves = [found[name] if name in found else stored_arrays.zeros(leaf) for name, leaf in targets.items()]
        return Restored(step, jax.tree.unflatten(jax.tree.structure(abstract), leaves), about)


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
