"""Folders that are damaged and then read: a run, its durable copy, an export, a checkpoint of Hugging Face, a prepared
folder and a stream index.

Each reader gives something that tells what was read; `Subject.right` says what it may give. A UserError of one line is
right always, any other exception never.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
import numpy as np

import scratchpatch as sp
from scratchpatch import cli
from scratchpatch.checkpoints import durable, run_text, workdir
from scratchpatch.checkpoints.writer import Checkpoints
from scratchpatch.data import index
from scratchpatch.errors import UserError
from scratchpatch.evaluation.evaluate import evaluate
from scratchpatch.inference.loading import load_hf_blt
from scratchpatch.preparation.folder import prepare
from scratchpatch.report.evaluation import write_evaluation
from scratchpatch.report.page import write_report
from scratchpatch.training import loop
from tests import runs
from tests.interop import folders

STEPS = 4
# No reader of these few bytes takes as long, unless it waits for ever.
_PATIENCE_SECONDS = 60
REFUSED = "refused"
# What readers may write to: all else stays as it is.
OWN = ("run", "durable", "export", "blt", "prepared", "cache")
Reader = Callable[[Path], Any]


@dataclasses.dataclass(frozen=True)
class Subject:
    """A kind of folder.

    Attributes:
      build: makes one at a path that does not exist.
      damaged: of the folder that `build` made, what is damaged.
      readers: what reads it, by name.
      right: of each reader, whether what it gave of a damaged folder is right, by what it gave of the whole one.
    """

    name: str
    build: Callable[[Path], None]
    damaged: str
    readers: dict[str, Reader]
    right: Callable[[str, Any, Any], bool]


def read(subject: Subject, folder: Path) -> dict[str, Any]:
    """What each reader gives; REFUSED where it raised a UserError of one line. Raises whatever else a reader raises."""
    return {name: _patiently(lambda reader=reader: reader(folder)) for name, reader in subject.readers.items()}


class Waited(BaseException):
    """A reader waits for ever; no part of the package takes it for an error of a file."""


def _patiently(call: Callable[[], Any]) -> Any:
    def give_up(*_):
        raise Waited(f"nothing was read within {_PATIENCE_SECONDS} s")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(_PATIENCE_SECONDS)
    try:
        return call()
    except UserError as error:
        if "\n" in str(error).strip() or len(str(error)) > 3000:
            raise AssertionError(f"not one line: {error}") from error
        return REFUSED
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outside(folder: Path) -> dict[str, bytes]:
    """Every file of a folder that is nobody's to write."""
    files = (path for path in sorted(folder.rglob("*")) if path.relative_to(folder).parts[0] not in OWN)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()}


def digest(tree: Any) -> str:
    """Of all arrays of a pytree, with their paths."""
    hasher = hashlib.blake2b(digest_size=8)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        hasher.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode() + array.tobytes())
    return hasher.hexdigest()


# --- a run, and its durable copy


def _config(folder: Path):
    fields = {
        "training.steps": STEPS,
        "training.checkpoint_every": 2,
        "training.eval_every": STEPS,
        "training.durable_dir": str(folder / "durable"),
        "data.cache_dir": str(folder / "cache"),
        "trigger.gain": 0.01,
    }
    return runs.config(folder, runs.SHALLOW | fields)


def _train(folder: Path) -> None:
    with _patched():
        loop.train(_config(folder), folder / "run")
    write_evaluation(folder / "run", evaluate(folder / "run", max_bytes=200).comparisons(), step_named=False)
    sp.load(folder / "run")


@contextlib.contextmanager
def _patched() -> Iterator[None]:
    replaced = []

    def setattr_(target, name, value):
        replaced.append((target, name, getattr(target, name)))
        setattr(target, name, value)

    runs.leave_out_audit(setattr_)
    try:
        yield
    finally:
        for target, name, value in reversed(replaced):
            setattr(target, name, value)


class _Compiling(Exception):
    """The start of a run has read all that it reads."""


def _resume(folder: Path) -> tuple[int, str] | str:
    """(step, digest of the state) that `train` goes on from; also where it finds the run finished."""
    restored_states, opened, restore = [], [], Checkpoints.restore_latest

    def restoring(self, abstract):
        opened.append(self)
        restored = restore(self, abstract)
        restored_states.append("anew" if restored is None else (restored.step, digest(restored.state)))
        return restored

    def compiling(_):
        raise _Compiling

    with (
        mock.patch.object(Checkpoints, "restore_latest", restoring),
        mock.patch.object(loop.background, "start", compiling),
    ):
        # What fails is tried again at once.
        with mock.patch.object(durable, "_PAUSES", ()), contextlib.suppress(_Compiling):
            try:
                loop.train(_config(folder), folder / "run")
            finally:
                # Its copies go on beside the next damage else.
                for each in opened:
                    each.close()
    return restored_states[0]


def _resume_elsewhere(folder: Path) -> tuple[int, str] | str:
    """As `_resume`, where the workdir is lost and the durable copy is all that is there."""
    shutil.rmtree(folder / "run", ignore_errors=True)
    return _resume(folder)


def _load(folder: Path) -> tuple[int, str]:
    lm = sp.load(folder / "run")
    return lm.step, digest(lm.weights)


def _text(folder: Path) -> list[str]:
    config = workdir.load_config(folder / "run")
    return [stream.checksum for stream, _ in run_text.own_streams(folder / "run", config, "validation")]


def _command(*argv: str) -> Reader:
    """A verb: a wrong end is one that the command line itself calls a defect, since other exceptions leave `main`."""

    def run(folder: Path) -> str:
        said, shown = io.StringIO(), io.StringIO()
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(shown):
            code = cli.main([each.format(folder=folder) for each in argv])
        if code not in (0, 1):
            raise AssertionError(f"exit code {code}: {said.getvalue()}")
        return shown.getvalue() if code == 0 else REFUSED

    return run


# The step and the digest of its state are right together alone.
_STATES: dict[str, set] = {}


def _right_run(name: str, whole: Any, damaged: Any) -> bool:
    if name in ("load", "resume"):
        # The older step's own digest is learnt from a run without the newest, see `learn`.
        return damaged in _STATES[name]
    return name != "text" or damaged == whole


def learn(folder: Path, subject: Subject) -> None:
    """Remember what the steps of a whole run hold; the newest is taken away from the folder for it."""
    for name in ("load", "resume"):
        if name in subject.readers:
            _STATES.setdefault(name, set()).update((subject.readers[name](folder),))
    for steps in (folder / "run" / "checkpoints", folder / "durable"):
        shutil.rmtree(steps / str(STEPS), ignore_errors=True)
    for name in ("load", "resume"):
        if name in subject.readers:
            _STATES[name].add(subject.readers[name](folder))


_RUN_READERS = {
    "load": _load,
    "text": _text,
    "list": _command("checkpoint", "list", "--workdir={folder}/run"),
    "verify": _command("checkpoint", "verify", "--workdir={folder}/run"),
    "report": lambda folder: write_report(folder / "run") and "",
    "prune": _command("checkpoint", "prune", "--workdir={folder}/run", "--keep_last=1", "--dry_run"),
    "resume": _resume,
}
RUN = Subject("run", _train, "run", _RUN_READERS, _right_run)
DURABLE = Subject("durable", _train, "durable", {"resume": _resume_elsewhere}, _right_run)


# --- models as safetensors


def _export(folder: Path) -> None:
    config = runs.config(folder)
    sp.export(sp.init(config, seed=0), folder / "export")


def _load_export(folder: Path) -> tuple[str, str]:
    lm = sp.load(folder / "export")
    return digest(lm.weights), str(lm.config)


def _right_export(_: str, whole: Any, damaged: Any) -> bool:
    # The config is a text for people to edit: another one that fits the arrays is another model of theirs.
    return damaged[0] == whole[0]


EXPORT = Subject("export", _export, "export", {"load": _load_export}, _right_export)


def _write_hf(folder: Path) -> None:
    folders.write(folder / "blt", folders.settings())


# Nothing in the folder says what its numbers were.
HF = Subject(
    "hf",
    _write_hf,
    "blt",
    {"load": lambda folder: digest(load_hf_blt(folder / "blt", 128, 128).weights)},
    lambda *_: True,
)


# --- text


def _write_text(folder: Path) -> str:
    runs.write_text(folder / "text")
    return f"text:{folder}/text/*.txt"


def _documents(spec: str, folder: Path) -> str:
    hasher = hashlib.blake2b(digest_size=8)
    for split in ("train", "validation", "test"):
        stream = index.open_stream(spec, split, str(folder / "cache"), held_out=0.2)
        for document in stream.documents_iter():
            hasher.update(b"%d:" % len(document) + document)
        hasher.update(stream.checksum.encode())
    return hasher.hexdigest()


def _prepare(folder: Path) -> None:
    prepare(_write_text(folder), str(folder / "prepared"), 2, 0.2)


def _build_index(folder: Path) -> None:
    _documents(_write_text(folder), folder)


PREPARED = Subject(
    "prepared",
    _prepare,
    "prepared",
    {"documents": lambda folder: _documents(f"prepared:{folder}/prepared", folder)},
    lambda _, whole, damaged: damaged == whole,
)
INDEX = Subject(
    "index",
    _build_index,
    "cache/index",
    {"documents": lambda folder: _documents(f"text:{folder}/text/*.txt", folder)},
    lambda _, whole, damaged: damaged == whole,
)

SUBJECTS = {subject.name: subject for subject in (RUN, DURABLE, EXPORT, HF, PREPARED, INDEX)}
