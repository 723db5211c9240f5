"""The checkpoints of a run as the run itself keeps them: written in the background, one folder per step (see `format`).

Of several processes each writes its share below one STEP.partial, so all of them must see one folder (processes.share
checks it); the first process renames, prunes, and copies to the durable tier (see `durable`).
"""

import concurrent.futures
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from absl import logging

import scratchpatch
from scratchpatch import config as config_lib, schema
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
    """Writes the checkpoints of the one run that owns the folder, and reads them. The newest `keep_last` steps are
    kept, and the one with the lowest 'validation_bpb' among its metrics. Opening the folder removes what a killed
    process left there. Raises UserError where it cannot be written.
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
        self._unremovable: set[str] = set()
        durable_dir = config.training.durable_dir if processes.is_first() else ""
        self._tier = Tier(durable_dir) if durable_dir else None
        self._mirror = Mirror(self._tier, self.folder, config.training.durable_keep) if self._tier else None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        if processes.is_first():
            for name in self.beside("partial", "deleted"):
                logging.info("removing %s, which a killed run left behind", self.folder / name)
                self._try(discard, self.folder / name)

    def save(self, step: int, state: dict[str, Any], metrics: dict[str, Any] | None = None) -> None:
        """Copy the state, a dict of pytrees of jax.Array, to the host, then write it in the background. The state's
        buffers may be donated as soon as this returns. `metrics`, name to number or short text, are stored beside it. A
        step that this object has already saved or restored is left as it is. Raises UserError where this save, or the
        one before it, cannot be written.
        """
        self.wait()
        if step in self._stored:
            return
        leaves = arrays.by_path(state)
        about = {
            "schema": schema.CURRENT, "config": self._config, "step": step, "version": scratchpatch.__version__,
            "metrics": {name: plain(value) for name, value in (metrics or {}).items()},
            "arrays": {name: arrays.shape_and_dtype(array) for name, array in leaves.items()},
        }
        partial = self._partial(step)
        try:
            if partial.exists() and processes.is_first():
                shutil.rmtree(partial)
            response = arrays.save(partial / format.STATE, leaves)
        except jax.errors.JaxRuntimeError:
            raise
        except Exception as error:  # orbax raises one of several types for a full disk
            self._drop(partial)
            raise self._unwritable(error) from error
        self._pending = self._pool.submit(self._finish, step, about, response)

    def wait(self) -> None:
        """Return once the last save is on the disk and old steps are gone. Raises UserError where that save failed."""
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
        """The newest whole step of the folder and of `training.durable_dir`, chosen by the first process. Damaged steps
        are set aside as STEP.damaged, for the run to redo. Raises UserError as CheckpointReader does, and where the
        workdir has no whole step and `training.durable_dir` cannot be read.
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
                blind = f"process {jax.process_index()} does not see {path}, which process 0 does"
                raise UserError(f"{blind}: --workdir must lie on storage that all processes share")

    def _choose(self, abstract: dict[str, Any]) -> int | None:
        """The step to go on from, which then lies in the folder; None where no step was ever stored."""
        step, errors = self._search(abstract, partial=False)
        fetched = self._fetch_newer(-1 if step is None else step) if self._tier else None
        if step is None and fetched is None:
            self._refuse(errors)
        self._unread = {bad for bad, error in errors.items() if isinstance(error, Unreadable)}
        for bad, error in errors.items():
            if bad not in self._unread:
                self._set_aside(bad, error)
        if fetched is None:
            return step
        self._rename(fetched)
        self._examine(fetched, abstract, partial=False)
        logging.info("step %d comes from %s", fetched, self._tier.folder)
        return fetched

    def _set_aside(self, step: int, error: NotWhole) -> None:
        aside = self.folder / f"{step}.damaged"
        try:
            discard(aside)
            (self.folder / str(step)).rename(aside)
        except OSError as failed:
            raise self._unwritable(failed) from failed
        says = f"step {step} ({error}) is set aside as {aside}, which nothing reads"
        logging.warning("%s: remove it when you like", says)

    def _fetch_newer(self, newest: int) -> int | None:
        """Copy the newest whole step of the durable tier to STEP.partial, where it is newer than `newest`."""
        damaged = []
        try:
            for step in (step for step in reversed(self._tier.steps()) if step > newest):
                path = self._tier.location(step)
                try:
                    if changes := self._differences(path, format.read_about(path)):
                        other = f"{self._tier.folder} holds another experiment: {'; '.join(changes)}"
                        raise UserError(f"training.durable_dir {other}; name a folder of this run alone")
                    self._tier.fetch(step, self._partial(step))
                    return step
                except Damaged as error:
                    logging.warning("durable step %s is damaged (%s) and not used", path, error)
                    damaged.append(f"step {step}: {error}")
        except UserError:
            raise
        except Exception as error:  # file systems raise their own kinds
            reason = f"cannot read {self._tier.folder}: {first_line(error)}"
            if newest < 0:
                fix = "try again, or start from scratch with --config.training.durable_dir=''"
                raise UserError(f"{reason}; the workdir has no checkpoint and that folder may: {fix}") from error
            logging.warning("%s; going on from step %d of the workdir", reason, newest)
        if damaged and newest < 0:
            says = f"every checkpoint in {self._tier.folder} is damaged ({'; '.join(damaged)})"
            fix = "restore one of the folders from a copy, or name another training.durable_dir"
            raise UserError(f"{says}, and the workdir has no whole one: {fix} to start again from scratch")
        return None

    def _partial(self, step: int) -> Path:
        return self.folder / f"{step}.partial"

    def _rename(self, step: int) -> None:
        path = self.folder / str(step)
        if path.exists():
            remove(path)
        self._partial(step).rename(path)

    def _finish(self, step: int, about: dict[str, Any], response) -> None:
        """In the background: wait for orbax, describe what it wrote, rename the folder into place. Each process reads
        back what it wrote itself, and none goes on where another one fails.
        """
        partial, this_process = self._partial(step), jax.process_index()

        def own_checksums() -> format.Checksums:
            response.result()
            return format.checksums(partial, lambda name: arrays.writing_process(name) == this_process)

        def publish() -> None:
            described = {name: checksum for share in shares for name, checksum in share.items()}
            files = described | format.checksums(partial, lambda name: name not in described)
            format.write_about(partial, about | {"files": dict(sorted(files.items()))})
            self._rename(step)

        try:
            shares = processes.gather(own_checksums, "files of a checkpoint")
            processes.first(publish, "checkpoint")
        except BaseException:
            self._drop(partial)
            raise
        self._stored.add(step)
        self._unread.discard(step)
        if self._mirror:
            self._mirror.push(step)
        if processes.is_first():
            self._prune()

    def _drop(self, partial: Path) -> None:
        """Free the room of a step that could not be written; of several processes others may still write there."""
        if jax.process_count() == 1:
            shutil.rmtree(partial, ignore_errors=True)

    def _prune(self) -> None:
        scores = {}
        # A step that cannot be read is neither counted nor deleted.
        for step in (step for step in self.steps() if step not in self._unread):
            try:
                scores[step] = format.score(format.read_about(self.folder / str(step)))
            except Damaged:
                scores[step] = math.inf
            except Unreadable:
                continue
        keep = {*[*scores][-self._keep_last :], *(self._mirror.held() if self._mirror else ())}
        best = min(scores, key=scores.__getitem__, default=None)
        for step in scores:
            if step not in keep and (step != best or scores[best] == math.inf):
                self._try(_remove_unread, self.folder / str(step))
        for leftover in self.beside("deleted"):
            self._try(discard, self.folder / leftover)

    def _try(self, delete: Callable[[Path], None], path: Path) -> None:
        """Delete, or warn once: a network disk keeps what another program has open, and the next save tries again."""
        try:
            delete(path)
        except BlockingIOError:
            pass  # somebody reads it
        except OSError as error:
            if path.name not in self._unremovable:
                logging.warning("cannot remove %s now: %s", path, first_line(error))
            self._unremovable.add(path.name)

    def _unwritable(self, error: Exception) -> UserError:
        says = f"cannot write checkpoints into {self.folder}: {first_line(error)}"
        return UserError(f"{says}; free space there, make it writable, or use another --workdir")


def remove(path: Path) -> None:
    """Delete a step such that a kill in between leaves a leftover, not half a step. Raises OSError."""
    doomed = path.with_name(f"{path.name}.deleted")
    discard(doomed)
    discard(path.rename(doomed))


def discard(path: Path) -> None:
    """Delete what lies at a path, if anything does: a folder, a file, or a link alone. Raises OSError."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_unread(path: Path) -> None:
    with lock.unread(path / format.ABOUT):
        remove(path)
