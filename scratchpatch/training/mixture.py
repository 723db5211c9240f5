"""data.json of a run: the text that it reads, and the weights of its sources by step.

    {"checksums": {SPEC: checksum of its training split}, "weights": [[first step, [weight, ...]], ...]}

A run may go on with other weights in data.sources, from the checkpoint on that
it goes on from: see `history`.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
from absl import logging

from scratchpatch.data.stream import Stream
from scratchpatch.errors import UserError
from scratchpatch.training import history
from scratchpatch.training.history import History
from scratchpatch.training.json_files import replace_text

FILE = "data.json"
Weights = History[list[float]]


def guard(workdir: Path, streams: list[tuple[Stream, float]]) -> None:
    """Refuse to go on with a run whose text has changed: its batches would be others.

    Args:
      workdir: of the run; data.json is written where it is missing.
      streams: what the run is about to train on, with the weights.
    Raises:
      UserError: naming the source.
    """
    found = {stream.spec: stream.checksum for stream, _ in streams}
    if (workdir / FILE).exists():
        known = read(workdir)["checksums"]
        changed = [spec for spec, checksum in found.items() if known.get(spec) != checksum]
        if changed:
            raise UserError(
                f"the text of {', '.join(changed)} is not what {workdir} was trained on: restore it, or use another --workdir"
            )
    else:
        write(workdir, found, [(0, [weight for _, weight in streams])])


def weights(workdir: Path, now: list[float], step: int) -> Weights:
    """(first step, weights) of a run that goes on from `step` with the weights `now`; also kept in data.json.

    Raises:
      UserError: data.json cannot be read.
    """
    known = read(workdir)
    found = history.follow(known["weights"], now, step)
    if found != known["weights"]:
        write(workdir, known["checksums"], found)
        logging.info("the sources have other weights from step %d on: %s", found[-1][0], ", ".join(map(str, now)))
    return found


def read(workdir: Path) -> dict:
    """The checksums and the weights that are there. Raises UserError where they cannot be read."""
    try:
        found = json.loads((workdir / FILE).read_text())
        return {"checksums": dict(found["checksums"]), "weights": history.read(found["weights"])}
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"cannot read {workdir / FILE} ({error}); restore it, or use another --workdir") from error


def write(workdir: Path, checksums: dict[str, str], weights: Weights) -> None:
    """Of several processes the first one does."""
    if jax.process_index() == 0:
        replace_text(workdir / FILE, json.dumps({"checksums": checksums, "weights": weights}, indent=1) + "\n")
