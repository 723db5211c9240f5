"""The folder of one run: whose experiment it is, and who writes there now.

    workdir/config.json       the flat config of the latest start, its schema, and the package version that ran it
    workdir/tokenizer.json    of a model of tokens: a copy of its tokenizer, whose digest config.json holds
    workdir/lock              held by the trainer that owns the workdir
    workdir/supervisor        held by the supervisor that restarts it (launch/supervise)
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import ml_collections

import scratchpatch
from scratchpatch import config as config_lib, config_file, schema
from scratchpatch.checkpoints import history, lock, settings
from scratchpatch.data import tokenizer
from scratchpatch.data.anchor import anchored
from scratchpatch.distributed import processes
from scratchpatch.errors import UserError

_CONFIG = "config.json"


def refuse_foreign(workdir: str | Path) -> None:
    """Raise UserError where a folder is no workdir and cannot become one; nothing is written there. Such a folder holds
    an exported model, or a config.json that is no run's. Other files of the user are no obstacle.
    """
    folder = Path(workdir)
    arrays = min(folder.glob("*.safetensors*"), default=None)
    if arrays and not (folder / "checkpoints").exists():
        fix = f"use another --workdir, and --config.training.init_from={workdir} to start from its weights"
        raise UserError(f"workdir {workdir} holds a model ({arrays.name}) and no run: {fix}")
    if (folder / _CONFIG).exists():
        try:
            load_config(workdir)
        except UserError as error:
            raise UserError(f"{error}, or use another --workdir") from error


def guard_workdir(workdir: str | Path, config: ml_collections.ConfigDict) -> None:
    """Make the workdir this config's own, and write its config.json. Fields that are free to change on resumption
    (config.Field.free) may differ from those of the run that is there. Raises UserError where the workdir holds another
    experiment, or cannot be written.
    """
    path = Path(workdir) / _CONFIG
    if path.exists():
        # Older versions kept relative paths as they were.
        if changes := config_lib.difference(anchored(load_config(workdir)), config):
            other = f"workdir {workdir} holds another experiment: {'; '.join(changes)}"
            raise UserError(f"{other}; use another --workdir, or undo these changes to resume")
        # The fields that may change are about to be written over.
        settings.begin(Path(workdir), load_config(workdir))
    document = {"schema": schema.CURRENT, "version": scratchpatch.__version__, "config": config_lib.flat(config)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        history.write(path, document | tokenizer.keep(path.parent, config))
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror}; use another --workdir") from error


def load_config(workdir: str | Path) -> ml_collections.ConfigDict:
    """The config that a workdir was trained with. Raises UserError where it is missing or cannot be read."""
    path = Path(workdir) / _CONFIG
    if not path.exists():
        raise UserError(f"{workdir} is no workdir: it has no {_CONFIG}; train into it first")
    return config_file.read(path)


@contextlib.contextmanager
def lock_workdir(workdir: str | Path) -> Iterator[None]:
    """Hold the workdir alone. Raises UserError, in every process of the run, where another trainer holds it."""
    with contextlib.ExitStack() as stack:
        processes.first(lambda: stack.enter_context(lock.hold(Path(workdir) / "lock", "trainer")))
        yield
