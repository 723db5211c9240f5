"""What a run starts from; README.md has the order of precedence.

With the same config a branch computes what the other run would have, bit for bit.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from absl import logging

from scratchpatch import config as config_lib, config_file
from scratchpatch.checkpoints import durable, history, run_text, settings, workdir as workdir_lib
from scratchpatch.checkpoints.reader import CheckpointReader, Restored
from scratchpatch.checkpoints.writer import Checkpoints
from scratchpatch.data import tokenizer
from scratchpatch.data.anchor import anchored
from scratchpatch.data.mixture import streams_for
from scratchpatch.distributed import processes
from scratchpatch.errors import UserError
from scratchpatch.inference import loading
from scratchpatch.interop import safetensors_folder
from scratchpatch.model import weights as weights_lib
from scratchpatch.training.metrics import read_all

# The files by which a start says which run a workdir is.
_FIRST_FILES = {"config.json", run_text.FILE, settings.FILE, config_file.TOKENIZER}
# Where a run starts is the one thing that its branches do not share.
_STARTS = ("training.init_from", "training.continue_from")
# What an entropy model computes depends on these fields, and the shapes of its arrays do not tell all of them.
_ENTROPY_FIELDS = (
    *("d_byte", "ffn_multiplier", "rope_theta", "norm_eps", "target_rows", "decoder.layers"),
    *(f"encoder.{name}" for name in ("layers", "heads", "window", "ngrams")),
)


class Start(NamedTuple):
    """step: steps that are done. state: None in a run that begins at step 0. origin: where it comes from, in words."""

    step: int
    state: dict[str, Any] | None
    origin: str
    branches: bool


@contextlib.contextmanager
def owned_workdir(config, workdir: Path) -> Iterator[None]:
    """Hold the workdir alone, with the files that say which run it is; a first start that fails inside removes them.
    Raises UserError where the folder is no workdir, belongs to another experiment, is in use, or cannot be written.
    """
    processes.first(lambda: workdir_lib.refuse_foreign(workdir))
    with workdir_lib.lock_workdir(workdir):
        processes.share(workdir)
        earlier = {name for name in _FIRST_FILES if (workdir / name).exists()}
        try:
            processes.first(lambda: workdir_lib.guard_workdir(workdir, config))
            processes.first(lambda: durable.fetch_files(config, workdir))
            processes.first(lambda: begin_branch(config, workdir))
            processes.first(lambda: settings.begin(workdir, config))
            yield
        except BaseException:
            trained = [*workdir.glob("checkpoints/*"), *(p for p in workdir.glob("metrics.jsonl") if p.stat().st_size)]
            if not trained and processes.is_first():
                for name in _FIRST_FILES - earlier:
                    with contextlib.suppress(OSError):
                        (workdir / name).unlink(missing_ok=True)
            raise


def finished(config, workdir: Path) -> int | None:
    """How many steps a finished run has done, told without making its model. None: it has steps to do, or `restore`
    must tell, as where other processes or a durable tier take part. Raises UserError where the run's text has changed.
    """
    if jax.process_count() > 1 or config.training.durable_dir:
        return None
    done = CheckpointReader(workdir / "checkpoints", config).reached(config.training.steps)
    if done is not None:
        run_text.guard(workdir, streams_for(config, "train"), streams_for(config, "validation"))
    return done


def restore(config, checkpoints: Checkpoints, abstract_state: dict[str, Any]) -> Start:
    """The step and the state from which the run goes on, the same in every process; each array where its sharding says.
    Raises UserError for a checkpoint that cannot be used, by name.
    """
    restored = checkpoints.restore_latest(abstract_state)
    processes.agree({"the checkpoint to go on from": str(restored.step if restored else 0)})
    if restored:
        return Start(restored.step, restored.state, f"resumed at step {restored.step}", branches=False)
    if restored := restore_branch(config, abstract_state):
        return Start(restored.step, restored.state, f"training from {config.training.continue_from}", branches=True)
    return Start(0, None, f"training from {config.training.init_from or 'random weights'}", branches=False)


def branch_point(config) -> tuple[Path, int] | None:
    """The folder of the run that this one branches off, and the step; None: it is no branch."""
    run, _, step = config.training.continue_from.rpartition("@")
    return (Path(run), int(step)) if run else None


def begin_branch(config, workdir: Path) -> None:
    """Give the workdir of a branch the histories of the other run, up to the step of the branch. Once the branch has a
    checkpoint of its own, the other run is not read any more. Raises UserError where there is no such run, it is
    another experiment, or the branch would have no step to do.
    """
    point = branch_point(config)
    if point is None or CheckpointReader(workdir / "checkpoints").steps():
        return
    run, step = point
    if run.resolve() == workdir.resolve():
        raise UserError(
            f"training.continue_from = {config.training.continue_from!r} is this very workdir: use another --workdir"
        )
    # Older versions kept relative paths as they were.
    other = anchored(workdir_lib.load_config(run))
    for name in _STARTS:
        config_lib.set_field(other, name, config_lib.get(config, name))
    if changes := config_lib.difference(other, config):
        raise UserError(
            f"training.continue_from: {run} is another experiment: {'; '.join(changes)}; "
            "undo these changes, or start from its weights alone with training.init_from"
        )
    if step >= config.training.steps:
        raise UserError(
            f"training.steps = {config.training.steps} leaves nothing to do after step {step} of {run}: raise it"
        )
    text = run_text.read(run)
    if not (workdir / run_text.FILE).exists():
        history.write(workdir / run_text.FILE, text | {"weights": history.before(text["weights"], max(step, 1))})
    if not (workdir / settings.FILE).exists():
        # A run of an older version has none: its settings never changed.
        changes = settings.read(run) if (run / settings.FILE).exists() else [(0, settings.of(other))]
        history.write(workdir / settings.FILE, history.before(changes, max(step, 1)))


def restore_branch(config, abstract_state: dict[str, Any]) -> Restored | None:
    """The state that a branch starts from; None: the run is no branch. Raises UserError for no such step, with those
    that there are, a damaged one, or other arrays, which are named.
    """
    point = branch_point(config)
    if point is None:
        return None
    run, step = point
    reader = CheckpointReader(run / "checkpoints", processes.together(lambda: workdir_lib.load_config(run)))
    processes.first(lambda: reader.prove(step, abstract_state))
    return processes.together(lambda: reader.read(step, abstract_state))


def branch_lines(config) -> list[dict[str, Any]]:
    """What the other run measured up to the step of the branch."""
    run, step = branch_point(config)
    return [record for record in read_all(run) if record["step"] <= step]


def given_weights(config, shardings) -> dict:
    """The parts of a new run's weights that are not random, each device with its own share; there may be none. A
    threshold stays as it was in `training.init_from`, unless the two configs name different ones: then it is the new
    config's. All processes must call this. shardings: of all weights or of those parts that are wanted. Raises
    UserError where there is nothing to load, or the arrays are those of another model, which it names.
    """
    if config.training.init_from:
        return _whole_model(config, shardings)
    if config.model.entropy_model.layers:
        return {"frozen": {"entropy_model": _entropy_model(config, shardings["frozen"]["entropy_model"])}}
    return _put(tokenizer.spelling(config), shardings)


def _put(weights: dict, shardings) -> dict:
    """Arrays of the host, which every process has, where their shardings say."""

    def put(x, place):
        return jax.make_array_from_callback(x.shape, place, x.__getitem__)

    return {part: jax.tree.map(put, x, shardings[part]) for part, x in weights.items()}


def _whole_model(config, shardings) -> dict:
    """The weights of `training.init_from`, as far as there are shardings for them."""
    source = loading.find(config.training.init_from)
    own, theirs = (tokenizer.of(each) for each in (config, source.config))
    if own and theirs and own.checksum != theirs.checksum:
        other = f"training.init_from = {config.training.init_from!r} was trained with another data.tokenizer"
        raise UserError(f"{other}: set data.tokenizer = {theirs.name!r}")
    named = config_lib.changed(source.config, config)
    _, wanted = weights_lib.redefine(config, source.abstract, named=named)
    placed = {part: _placed(x, shardings[part]) for part, x in source.abstract.items() if part in shardings}
    weights = source.read(placed)
    for name, value in wanted["thresholds"].items() if "thresholds" in weights else ():
        if not isinstance(value, jax.ShapeDtypeStruct):
            threshold, everywhere = np.asarray(value), shardings["thresholds"][name]
            weights["thresholds"][name] = jax.make_array_from_callback((), everywhere, lambda _, x=threshold: x)
    logging.info("weights of %s, step %d", config.training.init_from, source.step)
    return weights


def _entropy_model(config, shardings) -> dict:
    workdir = config.model.entropy_model.workdir
    if not workdir:
        raise UserError(
            "model.entropy_model.workdir is empty, and a random entropy model would choose the patches: train one "
            "(model.trunk.kind = 'none', see experiments/blt/entropy_small.py) and name its folder"
        )
    source = loading.find(workdir)
    if source.config.model.trunk.kind != "none":
        raise UserError(
            f"model.entropy_model.workdir: {workdir} holds a model with a trunk; "
            "wanted one of model.trunk.kind = 'none'"
        )
    described = config_lib.entropy_model(config)
    _, wanted = weights_lib.abstract(described)
    shapes = (weights_lib.shapes(each["params"]) for each in (wanted, source.abstract))
    problems = safetensors_folder.mismatches(*shapes)
    for name in _ENTROPY_FIELDS:
        there, here = config_lib.get(source.config.model, name), config_lib.get(described.model, name)
        if there != here:
            problems.append(f"model.{name} is {there!r} there, {here!r} by model.entropy_model")
    if problems:
        differences = "; ".join(problems)
        raise UserError(f"{workdir} is not the entropy model that model.entropy_model describes: {differences}")
    if source.step < source.config.training.steps:
        logging.warning("%s is not finished: step %d of %d", workdir, source.step, source.config.training.steps)
    params = source.read({"params": _placed(source.abstract["params"], shardings)})["params"]
    logging.info("entropy model of %s, step %d", workdir, source.step)
    return params


def _placed(abstract, shardings):
    return jax.tree.map(lambda x, sharding: x.update(sharding=sharding), abstract, shardings)
