"""data.json of a run: the text that it reads, and the weights of its sources by step.

    {"checksums": {SPEC: checksum of its training split}, "weights": [[first step, [weight, ...]], ...]}

A run may go on with other weights in data.sources: they hold from the checkpoint
on that it goes on from, and the batches before stay what they were. A later
attempt whose config has the newest weights follows the whole list, from whichever
checkpoint; one with other weights drops what the list says from its step on.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
from absl import logging

from scratchpatch.data.stream import Stream
from scratchpatch.errors import UserError
from scratchpatch.training.json_files import replace_text

FILE = "data.json"
Weights = list[tuple[int, list[float]]]


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
        known = _read(workdir)["checksums"]
        changed = [spec for spec, checksum in found.items() if known.get(spec) != checksum]
        if changed:
            raise UserError(
                f"the text of {', '.join(changed)} is not what {workdir} was trained on: restore it, or use another --workdir"
            )
    else:
        _write(workdir, found, [(0, [weight for _, weight in streams])])


def weights(workdir: Path, now: list[float], step: int) -> Weights:
    """(first step, weights) of a run that goes on from `step` with the weights `now`; also kept in data.json.

    Raises:
      UserError: data.json cannot be read.
    """
    known = _read(workdir)
    history = [(first, list(each)) for first, each in known["weights"]]
    if history[-1][1] == now:
        return history
    changed = [(first, each) for first, each in history if first < step]
    if not changed or changed[-1][1] != now:
        changed.append((step, now))
    _write(workdir, known["checksums"], changed)
    logging.info("the sources have other weights from step %d on: %s", changed[-1][0], ", ".join(map(str, now)))
    return changed


def _read(workdir: Path) -> dict:
    try:
        found = json.loads((workdir / FILE).read_text())
        return {"checksums": found["checksums"], "weights": found["weights"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {workdir / FILE} ({error}); restore it, or use another --workdir") from error


def _write(workdir: Path, checksums: dict[str, str], history: Weights) -> None:
    if jax.process_index() == 0:
        replace_text(workdir / FILE, json.dumps({"checksums": checksums, "weights": history}, indent=1) + "\n")
