"""The checkpoints of a run as the run itself keeps them: written in the background, one folder per step (see `format`).

Of several processes each writes its share below one STEP.partial, so all of them must see one folder (processes.share
checks it); the first process renames, prunes, and copies to the durable tier (see `durable`).
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
from scratchpatch.checkpoints import arrays, format, lock
from scratchpatch.checkpoints.durable import Mirror, Tier
from scratchpatch.checkpoints.format import Damaged, NotWhole, Unreadable
from scratchpatch.checkpoints.reader import CheckpointReader, Restored
from scratchpatch.distributed import processes
from scratchpatch.errors import UserError, first_line
from scratchpatch.json_files import plain

# How long a network file system may hide from one process what another one wrote.
_HIDDEN_SECONDS = 120


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
        # Steps that this object has saved or restored, and steps that it could not read.
        self._stored: set[int] = set()
        self._unread: set[int] = set()
        self._scores: dict[int, float] = {}
        self._unremovable: set[str] = set()
        is_first = jax.process_index() == 0
        self._tier = Tier(config.training.durable_dir) if is_first and config.training.durable_dir else None
        self._mirror = Mirror(self._tier, self.folder, config.training.durable_keep) if self._tier else None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        if is_first:
            for path in self.beside("partial", "deleted"):
                logging.info("removing %s, which a killed run left behind", path)
                self._try(discard, path)
            for step in self.steps():
                try:
                    self._scores[step] = format.score(format.read_about(self.folder / str(step)))
                except NotWhole:
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
        if step in self._stored:
            return
        leaves = arrays.by_path(state)
        about = {
            "schema": schema.CURRENT,
            "config": self._config,
            "step": step,
            "version": scratchpatch.__version__,
            "metrics": {name: plain(value) for name, value in (metrics or {}).items()},
            "arrays": {name: arrays.shape_and_dtype(array) for name, array in leaves.items()},
        }
        partial = self._partial(step)
        try:
            if partial.exists() and jax.process_index() == 0:
                shutil.rmtree(partial)
            response = arrays.save(partial / format.STATE, leaves)
        except jax.errors.JaxRuntimeError:
            raise
        except Exception as error:  # orbax raises one of several types for a full disk
            self._drop(partial)
            raise self._unwritable(error) from error
        self._pending = self._pool.submit(self._finish, step, about, response)

    def wait(self) -> None:
        """Return once the last save lies on the disk and the steps not to keep are gone.

        Raises UserError where that save failed.
        """
        pending, self._pending = self._pending, None
        try:
            if pending is not None:
                pending.result()
        except Exception as error:  # orbax raises one of several types for a full disk
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
        processes.together(lambda: self._await_files(step))
        restored = self.read(step, abstract_state)
        self._stored.add(step)
        if self._mirror:
            self._mirror.push(step)
        return restored

    def _await_files(self, step: int) -> None:
        """Wait until this process sees a step that the first one chose, and perhaps put there just now."""
        for path in format.file_paths(self.folder / str(step)):
            if not processes.appears(Path(path), _HIDDEN_SECONDS):
                raise UserError(
                    f"process {jax.process_index()} does not see {path}, which process 0 does: "
                    "--workdir must lie on storage that all processes share"
                )

    def _choose(self, abstract: dict[str, Any]) -> int | None:
        """The step to go on from, which then lies in the folder; None where no step was ever stored."""
        step, errors = self._search(abstract, partial=False)
        fetched = self._fetch_newer(-1 if step is None else step) if self._tier else None
        if step is None and fetched is None:
            self._refuse(errors)
        for bad, error in errors.items():
            if isinstance(error, Damaged):
                self._set_aside(bad, error)
        self._unread = {bad for bad, error in errors.items() if isinstance(error, Unreadable)}
        if fetched is None:
            return step
        path = self.folder / str(fetched)
        if path.exists():
            remove(path)
        self._partial(fetched).rename(path)
        self._prove(fetched, abstract, partial=False)
        self._scores[fetched] = format.score(self._proven[fetched])
        logging.info("step %d comes from %s", fetched, self._tier.folder)
        return fetched

    def _set_aside(self, step: int, error: Damaged) -> None:
        aside = self.folder / f"{step}.damaged"
        try:
            discard(aside)
            (self.folder / str(step)).rename(aside)
        except OSError as failure:
            raise self._unwritable(failure) from failure
        says = "step %d (%s) is set aside as %s, which nothing reads: remove it when you like"
        logging.warning(says, step, error, aside)
        self._scores.pop(step, None)

    def _fetch_newer(self, newest: int) -> int | None:
        """Copy the newest whole step of the durable tier to STEP.partial, where it is newer than `newest`."""
        damaged = []
        try:
            for step in (step for step in reversed(self._tier.steps()) if step > newest):
                try:
                    self._guard_experiment(step)
                    self._tier.fetch(step, self._partial(step))
                    return step
                except Damaged as error:
                    logging.warning("durable step %s is damaged (%s) and not used", self._tier.path(step), error)
                    damaged.append(f"step {step}: {error}")
        except UserError:
            raise
        except Exception as error:  # file systems raise their own kinds
            reason = f"cannot read {self._tier.folder}: {first_line(error)}"
            if newest < 0:
                raise UserError(
                    f"{reason}; the workdir has no checkpoint and that folder may: "
                    "try again, or start from scratch with --config.training.durable_dir=''"
                ) from error
            logging.warning("%s; going on from step %d of the workdir", reason, newest)
        if damaged and newest < 0:
            raise UserError(
                f"every checkpoint in {self._tier.folder} is damaged ({'; '.join(damaged)}), and the workdir has no whole "
                "one: restore one of the folders from a copy, or name another training.durable_dir to start again from scratch"
            )
        return None

    def _guard_experiment(self, step: int) -> None:
        path = self._tier.path(step)
        if changes := self._differences(path, format.read_about(path)):
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
        self._stored.add(step)
        self._unread.discard(step)
        self._scores[step] = format.score(about)
        if self._mirror:
            self._mirror.push(step)
        if jax.process_index() == 0:
            self._prune()

    def _publish(self, partial: Path, step: int, about: dict[str, Any], response) -> None:
        path, this_process = self.folder / str(step), jax.process_index()

        def own_checksums() -> format.Checksums:
            response.result()
            return format.checksums(partial, lambda name: arrays.writing_process(name) == this_process)

        shares = processes.gather(own_checksums, "files of a checkpoint")

        def publish() -> None:
            described = {name: checksum for share in shares for name, checksum in share.items()}
            files = described | format.checksums(partial, lambda name: name not in described)
            format.write_about(partial, about | {"files": dict(sorted(files.items()))})
            if path.exists():
                remove(path)
            partial.rename(path)

        processes.first(publish, "checkpoint")

    def _drop(self, partial: Path) -> None:
        """Free the room of a step that could not be written; of several processes others may still write there."""
        if jax.process_count() == 1:
            shutil.rmtree(partial, ignore_errors=True)

    def _prune(self) -> None:
        # A step that could not be read is neither counted nor deleted.
        steps = [step for step in self.steps() if step not in self._unread]
        keep = set(steps[-self._keep_last :]) | (self._mirror.held() if self._mirror else set())
        scores = {step: self._scores.get(step, math.inf) for step in steps}
        best = min(steps, key=scores.__getitem__)
        if scores[best] < math.inf:
            keep.add(best)
        for step in steps:
            if step not in keep:
                self._try(_remove_unread, self.folder / str(step))
        for leftover in self.beside("deleted"):
            self._try(discard, leftover)

    def _try(self, delete: Callable[[Path], None], path: Path) -> None:
        """Delete, or say once that it cannot be: a network disk keeps what another program has open, and it is tried again."""
        try:
            delete(path)
        except BlockingIOError:
            pass  # somebody reads it
        except OSError as error:
            if path.name not in self._unremovable:
                logging.warning("cannot remove %s now: %s", path, first_line(error))
            self._unremovable.add(path.name)

    def _unwritable(self, error: Exception) -> UserError:
        return UserError(
            f"cannot write checkpoints into {self.folder}: {first_line(error)}; "
            "free space there, make it writable, or use another --workdir"
        )


def remove(path: Path) -> None:
    """Delete a step such that a kill in between leaves a leftover, not half a step. Raises OSError."""
    doomed = path.with_name(f"{path.name}.deleted")
    discard(doomed)
    path.rename(doomed)
    discard(doomed)


def discard(path: Path) -> None:
    """Delete what lies at a path, if anything does: a folder, a file, or a link, not what it leads to. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_unread(path: Path) -> None:
    with lock.unread(path / format.ABOUT):
        remove(path)
