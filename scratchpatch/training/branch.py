"""A run that goes on from a checkpoint of another run, in a workdir of its own: training.continue_from = RUN@STEP.

It takes over parameters, moments, running means, step and place in the data, and the other run's histories up to there;
with the same config it computes what the other run would have, bit for bit.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scratchpatch import config as config_lib
from scratchpatch.checkpoints import history, run_text, settings
from scratchpatch.checkpoints.reader import CheckpointReader, Restored
from scratchpatch.checkpoints.workdir import load_config
from scratchpatch.data.anchor import anchored
from scratchpatch.distributed import processes
from scratchpatch.errors import UserError
from scratchpatch.training.metrics import read_all

# Where a run starts is the one thing that its branches do not share.
_OWN = ("training.init_from", "training.continue_from")


def parse(config) -> tuple[Path, int] | None:
    """The other run's folder and the step; None: the run is no branch."""
    run, _, step = config.training.continue_from.rpartition("@")
    return (Path(run), int(step)) if run else None


def begin(config, workdir: Path) -> None:
    """Give the workdir of a branch the histories of the other run, up to where it branches.

    Once it has a checkpoint of its own, the other run is not looked at any more.

    Raises:
      UserError: there is no such run, it is another experiment, or the branch would have no step to do.
    """
    found = parse(config)
    if found is None or CheckpointReader(workdir / "checkpoints").steps():
        return
    run, step = found
    if run.resolve() == workdir.resolve():
        raise UserError(f"training.continue_from = {config.training.continue_from!r} is this very workdir: use another --workdir")
    # Older versions kept relative paths as they were.
    theirs = anchored(load_config(run))
    for name in _OWN:
        config_lib.set_field(theirs, name, config_lib.get(config, name))
    if changes := config_lib.difference(theirs, config):
        raise UserError(
            f"training.continue_from: {run} is another experiment: {'; '.join(changes)}; "
            "undo these changes, or start from its weights alone with training.init_from"
        )
    if step >= config.training.steps:
        raise UserError(f"training.steps = {config.training.steps} leaves nothing to do after step {step} of {run}: raise it")
    data = run_text.read(run)
    if not (workdir / run_text.FILE).exists():
        history.write(workdir / run_text.FILE, data | {"weights": history.before(data["weights"], max(step, 1))})
    if not (workdir / settings.FILE).exists():
        # A run of an older version has none: its settings never changed.
        known = settings.read(run) if (run / settings.FILE).exists() else [(0, settings.of(theirs))]
        history.write(workdir / settings.FILE, history.before(known, max(step, 1)))


def restore(config, abstract_state: dict[str, Any]) -> Restored | None:
    """The state that a branch starts from, each array where its sharding says; None: the run is no branch.

    Raises:
      UserError: no such step, with those that there are; a damaged one; or other arrays, which are named.
    """
    found = parse(config)
    if found is None:
        return None
    run, step = found
    reader = CheckpointReader(run / "checkpoints", processes.together(lambda: load_config(run)))
    processes.first(lambda: reader.prove(step, abstract_state))
    return processes.together(lambda: reader.read(step, abstract_state))


def lines(config) -> list[dict[str, Any]]:
    """What the other run measured up to the step of the branch."""
    run, step = parse(config)
    return [record for record in read_all(run) if record["step"] <= step]
