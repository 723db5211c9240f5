"""Checkpoints of a run: one folder per step, written in the background, checked before it is read.

    checkpoints/200/state/        the state's arrays, as orbax writes them
    checkpoints/200/about.json    what they are: config, its schema, step, package version, metrics, shape and dtype of every array,
                                  and size and checksum of every file under state/ (see manifest)
    checkpoints/200.partial/      while it is written; renamed once all of it is there
    checkpoints/200.damaged/      set aside by the run that found it damaged

A state is a dict whose top-level keys ('params', 'optimizer', ...) are stored apart, so that one can be read without
the others. Below them any pytree of numeric arrays goes: only the paths of its leaves are stored.

Of several processes each writes its share below one STEP.partial, so all of them must see one folder (processes.share
checks it); the first one renames, prunes, and copies to the durable tier (see durable).
"""

from __future__ import annotations

import concurrent.futures
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import logging

import scratchpatch
from scratchpatch import config as config_lib
from scratchpatch import schema
from scratchpatch.checkpoints import arrays as stored_arrays
from scratchpatch.checkpoints import format as manifest
from scratchpatch.checkpoints import lock
from scratchpatch.checkpoints.durable import Mirror, Tier
from scratchpatch.checkpoints.format import Damaged, Unreadable
from scratchpatch.checkpoints.reader import CheckpointReader, Restored
from scratchpatch.distributed import processes
from scratchpatch.errors import UserError
from scratchpatch.json_files import plain

_BEST = "validation_bpb"
# How long a network file system may hide from one process what another one wrote.
_SEEN_SECONDS = 120


class Checkpoints(CheckpointReader):
    """Writes the checkpoints of the one run that owns the folder, and reads them.

    The newest `keep_last` steps are kept, and of the stored steps that were validated the one with the lowest
    'validation_bpb' among the metrics that `save` was given. Opening the folder removes what a killed process left there.
    Raises UserError where the folder cannot be written.
    """

    def __init__(self, folder: str | Path, config, keep_last: int):
        super().__init__(folder, config)
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
        self._stuck: set[str] = set()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        self._clean()
        for step in self.steps() if jax.process_index() == 0 else ():
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
        arrays = stored_arrays.named(state)
        about = {
            "schema": schema.CURRENT,
            "config": self._config,
            "step": step,
            "version": scratchpatch.__version__,
            "metrics": {name: plain(value) for name, value in (metrics or {}).items()},
            "arrays": {name: stored_arrays.shape_and_dtype(array) for name, array in arrays.items()},
        }
        partial = self._partial(step)
        try:
            if partial.exists() and jax.process_index() == 0:
                shutil.rmtree(partial)
            response = stored_arrays.write(partial / manifest.STATE, arrays)
        except jax.errors.JaxRuntimeError:
            raise
        except Exception as error:
            # Orbax passes on a full disk as one of several types.
            self._drop(partial)
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
        processes.together(lambda: self._see(step))
        restored = self.read(step, abstract_state)
        self._sound.add(step)
        if self._mirror:
            self._mirror.push(step)
        return restored

    def _see(self, step: int) -> None:
        """Wait until this process sees a step that the first one chose, and perhaps put there just now."""
        for path in manifest.parts(self.folder / str(step)):
            if not processes.appears(path, _SEEN_SECONDS):
                raise UserError(
                    f"process {jax.process_index()} does not see {path}, which process 0 does: --workdir must lie on storage "
                    "that all processes share"
                )

    def _choose(self, abstract: dict[str, Any]) -> int | None:
        step, bad = self._search(abstract, partial=False)
        fetched = self._fetch(-1 if step is None else step) if self._tier else None
        if step is None and fetched is None:
            self._refuse(bad)
        for each in (each for each, error in bad.items() if isinstance(error, Damaged)):
            aside = self.folder / f"{each}.damaged"
            try:
                discard(aside)
                (self.folder / str(each)).rename(aside)
            except OSError as error:
                raise self._unwritable(error) from error
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
        damaged = []
        try:
            for step in (step for step in reversed(self._tier.steps()) if step > newest):
                try:
                    self._guard_experiment(step)
                    self._tier.fetch(step, self._partial(step))
                    return step
                except Damaged as error:
                    logging.warning("durable step %s is damaged (%s) and not used", self._tier.folder / str(step), error)
                    damaged.append(f"step {step}: {error}")
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
        if damaged and newest < 0:
            raise UserError(
                f"every checkpoint in {self._tier.folder} is damaged ({'; '.join(damaged)}), and the workdir has no whole one: "
                "restore one of the folders from a copy, or name another training.durable_dir to start again from scratch"
            )
        return None

    def _guard_experiment(self, step: int) -> None:
        path = self._tier.folder / str(step)
        if changes := self._unlike(path, manifest.read(path)):
            raise UserError(
                f"training.durable_dir {self._tier.folder} holds another experiment: {'; '.join(changes)}; "
                "name a folder of this run alone"
            )

    def _partial(self, step: int) -> Path:
        return self.folder / f"{step}.partial"

    def _finish(self, step: int, about: dict[str, Any], response) -> None:
        """In the background: wait for orbax, describe what it wrote, rename the folder into place.

        Each process reads back what it wrote itself, and none goes on where another one fails.
        """
        partial = self._partial(step)
        try:
            self._publish(partial, step, about, response)
        except BaseException:
            self._drop(partial)
            raise
        self._sound.add(step)
        self._unread.discard(step)
        self._scores[step] = score(about["metrics"])
        if self._mirror:
            self._mirror.push(step)
        self._prune()

    def _publish(self, partial: Path, step: int, about: dict[str, Any], response) -> None:
        path, me = self.folder / str(step), jax.process_index()

        def written() -> manifest.Files:
            response.result()
            return manifest.files(partial, lambda name: stored_arrays.writer(name) == me)

        found = processes.gather(written, "files of a checkpoint")

        def publish() -> None:
            manifest.write(partial, about, {name: file for files in found for name, file in files.items()})
            if path.exists():
                remove(path)
            partial.rename(path)

        processes.first(publish, "checkpoint")

    def _drop(self, partial: Path) -> None:
        """Free the room of a step that could not be written; of several processes others may still write there."""
        if jax.process_count() == 1:
            shutil.rmtree(partial, ignore_errors=True)

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
                self._try(_remove_unread, self.folder / str(step))
        for leftover in self.beside("deleted"):
            self._try(discard, leftover)

    def _clean(self) -> None:
        for path in self.beside("partial", "deleted") if jax.process_index() == 0 else ():
            logging.info("removing %s, which a killed run left behind", path)
            self._try(discard, path)

    def _try(self, delete: Callable[[Path], None], path: Path) -> None:
        """Delete, or say once that it cannot be: a network disk keeps what another program has open, and it is tried again."""
        try:
            delete(path)
        except BlockingIOError:
            pass  # somebody reads it
        except OSError as error:
            if path.name not in self._stuck:
                logging.warning("cannot remove %s now: %s", path, manifest.first_line(error))
            self._stuck.add(path.name)

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
    """Delete a step such that a kill in between leaves a leftover, not half a step. Raises OSError."""
    doomed = path.with_name(f"{path.name}.deleted")
    discard(doomed)
    path.rename(doomed)
    discard(doomed)


def _remove_unread(path: Path) -> None:
    with lock.unread(path / manifest.ABOUT):
        remove(path)


def discard(path: Path) -> None:
    """Delete what lies at a path, if anything does: a folder, a file, or a link, not what it leads to. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
