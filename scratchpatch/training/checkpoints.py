"""Checkpoints of a run: one folder per step, written in the background, checked before it is read.

    checkpoints/200/state/        the state's arrays, as orbax writes them
    checkpoints/200/about.json    what they are: config, step, package version, metrics, shape and dtype of every array,
                                  and size and checksum of every file under state/ (see manifest)
    checkpoints/200.partial/      while it is written; renamed once all of it is there
    checkpoints/200.damaged/      set aside by the run that found it damaged

A state is a dict whose top-level keys ('params', 'optimizer', ...) are stored apart, so that one can be read without
the others. Below them any pytree of numeric arrays goes: only the paths of its leaves are stored.

Of several processes each writes its share below one STEP.partial, so all of them must see one folder (processes.share
checks it); the first one renames, prunes, and copies to the durable tier (see durable).

Orbax restores a flipped bit without a word, and wants no files but whole ones; so it is shown no others.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import logging as standard_logging
import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import jax
from absl import logging

import scratchpatch
from scratchpatch import config as config_lib
from scratchpatch.errors import UserError
from scratchpatch.parallel import processes
from scratchpatch.training import manifest
from scratchpatch.training.durable import Mirror, Tier
from scratchpatch.training.json_files import plain
from scratchpatch.training.manifest import Damaged, Unreadable

try:
    from orbax.checkpoint import v1 as ocp
except ImportError:
    from orbax.checkpoint.experimental import v1 as ocp

_CONTEXT = ocp.Context()
# A folder that cannot be made in the background leaves threads of orbax that hold up the exit for five minutes.
_CONTEXT.async_options.create_directories_asynchronously = False
_BEST = "validation_bpb"


def _keep(record: standard_logging.LogRecord) -> bool:
    # Orbax logs fifty lines per save at the level of this package's own lines, and the traceback of an exception that
    # it also raises.
    return "orbax" not in record.pathname or (record.levelno >= standard_logging.WARNING and not record.exc_info)


logging.get_absl_logger().addFilter(_keep)
# Orbax drops its coroutines where writing fails; the failure itself is raised.
warnings.filterwarnings("ignore", "coroutine '.*' was never awaited", RuntimeWarning)


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
        return self._latest(abstract_state, partial=False)

    def restore(self, step: int, abstract_state: dict[str, Any]) -> Restored:
        """One step. Raises UserError where it is missing, damaged, or holds other arrays than `abstract_state`."""
        return self._one(step, abstract_state, partial=False)

    def restore_part(self, step: int | None, abstract_part: dict[str, Any]) -> Restored:
        """Some top-level keys of a step (None: the newest whole one); the others are not read.

        Raises UserError as `restore` does, and where nothing is stored.
        """
        if step is not None:
            return self._one(step, abstract_part, partial=True)
        restored = self._latest(abstract_part, partial=True)
        if restored is None:
            raise UserError(f"{self.folder} holds no checkpoint: train first")
        return restored

    def _one(self, step: int, abstract: dict[str, Any], partial: bool) -> Restored:
        path = self.path(step)
        try:
            self._examine(step, abstract, partial)
        except Damaged as error:
            others = ", ".join(str(s) for s in self.steps() if s != step) or "none"
            raise UserError(f"checkpoint {path} is damaged ({error}); others: {others}") from error
        except Unreadable as error:
            raise UserError(f"checkpoint {path} cannot be read now ({error}): try again") from error
        return self._read(step, abstract)

    def _latest(self, abstract: dict[str, Any], partial: bool) -> Restored | None:
        step, bad = self._search(abstract, partial)
        if step is None:
            self._refuse(bad)
            return None
        return self._read(step, abstract)

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
        about, targets = manifest.read(path), _named(abstract)
        _check_agreement(path, about["arrays"], targets, partial)
        manifest.check(path, about, skipped={_group(n) for n in about["arrays"]} - {_group(n) for n in targets})

    def _read(self, step: int, abstract: dict[str, Any]) -> Restored:
        path = self.folder / str(step)
        targets = {name: _with_sharding(leaf) for name, leaf in _named(abstract).items()}
        values = ocp.load_checkpointables(path / manifest.STATE, _grouped(targets))
        leaves = [values[_group(name)][name] for name in targets]
        return Restored(step, jax.tree.unflatten(jax.tree.structure(abstract), leaves), manifest.read(path))


class Checkpoints(CheckpointReader):
    """Writes the checkpoints of the one run that owns the folder, and reads them.

    The newest `keep_last` steps are kept, and of all steps the one with the lowest 'validation_bpb' among the metrics
    that `save` was given. Opening the folder removes what a killed process left there.
    Raises UserError where the folder cannot be written.
    """

    def __init__(self, folder: str | Path, config, keep_last: int):
        super().__init__(folder)
        self._config = config_lib.flat(config)
        self._keep_last = keep_last
        self._pool = concurrent.futures.ThreadPoolExecutor(1, "checkpoints")
        self._pending: concurrent.futures.Future | None = None
        self._sound: set[int] = set()
        self._unread: set[int] = set()
        durable = config.training.durable_dir if jax.process_index() == 0 else ""
        self._tier = Tier(durable) if durable else None
        self._mirror = Mirror(self._tier, self.folder, config.training.durable_keep) if durable else None
        self._scores: dict[int, float] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._clean()
        except OSError as error:
            raise self._unwritable(error) from error
        for step in self.steps():
            try:
                self._scores[step] = score(manifest.read(self.folder / str(step))["metrics"])
            except (Damaged, Unreadable):
                self._scores[step] = math.inf

    def save(self, step: int, state: dict[str, Any], metrics: dict[str, Any] | None = None) -> None:
        """Copy the state to the host, then write it in the background.

        The state's buffers may be donated as soon as this returns. A step that this object has already saved or
        restored is left as it is.

        Args:
          step: optimizer steps done, the folder's name.
          state: dict of pytrees of jax.Array.
          metrics: names to numbers or short texts, stored beside it.

        Raises:
          UserError: the folder cannot be written, now or by the save before this one.
        """
        self.wait()
        if step in self._sound:
            return
        arrays = _named(state)
        about = {
            "config": self._config,
            "step": step,
            "version": scratchpatch.__version__,
            "metrics": {name: plain(value) for name, value in (metrics or {}).items()},
            "arrays": {name: _shape_and_dtype(array) for name, array in arrays.items()},
        }
        partial = self._partial(step)
        try:
            if partial.exists() and jax.process_index() == 0:
                shutil.rmtree(partial)
            with _CONTEXT:
                response = ocp.save_checkpointables_async(partial / manifest.STATE, _grouped(arrays))
        except OSError as error:
            raise self._unwritable(error) from error
        self._pending = self._pool.submit(self._finish, step, about, response)

    def wait(self) -> None:
        """Return once the last save lies on the disk and the steps not to keep are gone.

        Raises UserError where that save failed.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        try:
            pending.result()
        except Exception as error:
            # Orbax passes on a full disk as one of several types.
            raise self._unwritable(error) from error

    def close(self) -> None:
        """Wait for the last save and its durable copy, and save no more. Raises UserError where the save failed."""
        self.wait()
        self._pool.shutdown()
        if self._mirror:
            self._mirror.close()

    def restore_latest(self, abstract_state: dict[str, Any]) -> Restored | None:
        """As CheckpointReader.restore_latest, but of `training.durable_dir` too, where that has a newer whole step.

        Damaged steps are set aside as STEP.damaged, for the run to redo. Of several processes the first one chooses.
        Raises UserError also where the workdir has no whole step and `training.durable_dir` cannot be read.
        """
        self.wait()
        step = processes.first(lambda: self._choose(abstract_state))
        if step is None:
            return None
        restored = self._read(step, abstract_state)
        self._sound.add(step)
        if self._mirror:
            self._mirror.push(step)
        return restored

    def _choose(self, abstract: dict[str, Any]) -> int | None:
        step, bad = self._search(abstract, partial=False)
        fetched = self._fetch(-1 if step is None else step) if self._tier else None
        if step is None and fetched is None:
            self._refuse(bad)
        for each in (each for each, error in bad.items() if isinstance(error, Damaged)):
            aside = self.folder / f"{each}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            (self.folder / str(each)).rename(aside)
            logging.warning("step %d (%s) is set aside as %s, which nothing reads: remove it when you like", each, bad[each], aside)
            self._scores.pop(each, None)
        self._unread = {each for each, error in bad.items() if isinstance(error, Unreadable)}
        if fetched is None:
            return step
        path = self.folder / str(fetched)
        if path.exists():
            remove(path)
        self._partial(fetched).rename(path)
        self._examine(fetched, abstract, partial=False)
        self._scores[fetched] = score(manifest.read(path)["metrics"])
        logging.info("step %d comes from %s", fetched, self._tier.folder)
        return fetched

    def _fetch(self, newest: int) -> int | None:
        """Copy the newest whole step of the durable tier to STEP.partial, where it is newer than `newest`."""
        try:
            for step in (step for step in reversed(self._tier.steps()) if step > newest):
                try:
                    self._guard_experiment(manifest.read(self._tier.folder / str(step)))
                    self._tier.fetch(step, self._partial(step))
                    return step
                except Damaged as error:
                    logging.warning("durable step %s is damaged (%s) and not used", self._tier.folder / str(step), error)
        except UserError:
            raise
        except Exception as error:  # file systems raise their own kinds
            reason = f"cannot read {self._tier.folder}: {manifest.first_line(error)}"
            if newest < 0:
                raise UserError(
                    f"{reason}; the workdir has no checkpoint and that folder may: "
                    "try again, or start from scratch with --config.training.durable_dir=''"
                ) from error
            logging.warning("%s; going on from step %d of the workdir", reason, newest)
        return None

    def _guard_experiment(self, about: dict[str, Any]) -> None:
        changes = config_lib.difference(config_lib.from_flat(about["config"]), config_lib.from_flat(self._config))
        if changes:
            raise UserError(
                f"training.durable_dir {self._tier.folder} holds another experiment: {'; '.join(changes)}; "
                "name a folder of this run alone"
            )

    def _partial(self, step: int) -> Path:
        return self.folder / f"{step}.partial"

    def _finish(self, step: int, about: dict[str, Any], response) -> None:
        """In the background: wait for orbax, write what it wrote, rename the folder into place."""
        response.result()
        if jax.process_index() == 0:
            partial, path = self._partial(step), self.folder / str(step)
            manifest.write(partial, about)
            if path.exists():
                remove(path)
            partial.rename(path)
        self._sound.add(step)
        self._unread.discard(step)
        self._scores[step] = score(about["metrics"])
        if self._mirror:
            self._mirror.push(step)
        self._prune()

    def _prune(self) -> None:
        if jax.process_index() != 0:
            return
        # What could not be read is neither counted nor deleted.
        steps = [step for step in self.steps() if step not in self._unread]
        kept = set(steps[-self._keep_last :]) | (self._mirror.held() if self._mirror else set())
        best = min(steps, key=lambda s: self._scores.get(s, math.inf))
        if self._scores.get(best, math.inf) < math.inf:
            kept.add(best)
        for step in steps:
            if step not in kept:
                remove(self.folder / str(step))

    def _clean(self) -> None:
        for path in self.beside("partial", "deleted") if jax.process_index() == 0 else ():
            logging.info("removing %s, which a killed run left behind", path)
            shutil.rmtree(path)

    def _unwritable(self, error: Exception) -> UserError:
        return UserError(
            f"cannot write checkpoints into {self.folder}: {manifest.first_line(error)}; "
            "free space there, make it writable, or use another --workdir"
        )


def score(metrics: dict[str, Any]) -> float:
    """What the best step has the least of: 'validation_bpb' in bits per byte; infinite where it was not measured."""
    value = metrics.get(_BEST)
    return math.inf if value is None else value


def remove(path: Path) -> None:
    """Delete a step such that a kill in between leaves a leftover, not half a step."""
    doomed = path.with_name(f"{path.name}.deleted")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def _check_agreement(path: Path, stored: dict[str, Any], targets: dict[str, Any], partial: bool) -> None:
    """Raise UserError unless the stored arrays are those of the abstract state."""
    advice = "use the config that it was trained with, or another --workdir"
    for name, leaf in targets.items():
        if name not in stored:
            raise UserError(f"checkpoint {path} holds no array {name}: {advice}")
        there, here = stored[name], _shape_and_dtype(leaf)
        for what in ("shape", "dtype"):
            if there[what] != here[what]:
                both = f"has {what} {there[what]}, this model {here[what]}"
                raise UserError(f"checkpoint {path}: {name} {both}: {advice}")
    groups = {_group(name) for name in targets}
    surplus = [name for name in stored if name not in targets and (not partial or _group(name) in groups)]
    if surplus:
        raise UserError(f"checkpoint {path} holds an array {surplus[0]} that this model lacks: {advice}")


def _named(state: dict[str, Any]) -> dict[str, Any]:
    """Path to leaf, such as 'params.trunk.kernel', in the order of jax.tree.leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise ValueError("two leaves of the state have the same path: use keys without dots")
    return named


def _shape_and_dtype(array: Any) -> dict[str, Any]:
    return {"shape": list(array.shape), "dtype": str(array.dtype)}


def _group(name: str) -> str:
    """The top-level key of a path."""
    return name.split(".", 1)[0]


def _grouped(named: dict[str, Any]) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {}
    for name, leaf in named.items():
        groups.setdefault(_group(name), {})[name] = leaf
    return groups


def _with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
