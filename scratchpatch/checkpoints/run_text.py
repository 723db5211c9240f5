"""data.json of a run: the text that it reads, and the weights of its sources by step.

    {"checksums": {SPEC: checksum of its training split},
     "validation_checksums": {SPEC: checksum of its validation split}   (runs of older versions lack it)
     "weights": [[first step, [weight, ...]], ...]}

Text that has changed is refused wherever a run's own splits are read: its
batches would be others, and what was held out may be what it trained on.

A run may go on with other weights in data.sources, from the checkpoint on that
it goes on from: see `history`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import jax
import msgspec
from absl import logging

from scratchpatch import json_files
from scratchpatch.checkpoints import history
from scratchpatch.checkpoints.history import History
from scratchpatch.data import mixture, sources
from scratchpatch.data.stream import Stream
from scratchpatch.errors import UserError
from scratchpatch.files import replace_text
from scratchpatch.json_files import Count

FILE = "data.json"
Weights = History[list[float]]
Streams = list[tuple[Stream, float]]
_TRAIN, _VALIDATION = "checksums", "validation_checksums"


class _Data(TypedDict):
    checksums: dict[str, str]
    validation_checksums: NotRequired[dict[str, str]]
    weights: list[tuple[Count, list[Annotated[float, msgspec.Meta(ge=0, le=1e300)]]]]


# Overrides of these name other text than the run's own.
_TEXT_FIELDS = ("data.sources", "data.validation_sources", "data.held_out")


def guard_training(workdir: Path, streams: Streams) -> None:
    """Refuse to go on with a run whose training text has changed.

    Args:
      workdir: of the run.
      streams: what the run is about to train on, with the weights.
    Raises:
      UserError: naming the source.
    """
    if (workdir / FILE).exists():
        _compare(workdir, read(workdir), _TRAIN, streams, "use another --workdir")


def guard(workdir: Path, streams: Streams, validation: Streams) -> None:
    """Refuse to go on with a run whose text has changed; data.json is written where it, or its part, is missing.

    Args:
      workdir: of the run.
      streams: what the run is about to train on, with the weights.
      validation: what it validates on.
    Raises:
      UserError: naming the source.
    """
    found = {_TRAIN: _checksums(streams), _VALIDATION: _checksums(validation)}
    known = found | {"weights": [(0, [weight for _, weight in streams])]}
    if (workdir / FILE).exists():
        guard_training(workdir, streams)
        known = read(workdir)
        if _VALIDATION in known:
            _compare(workdir, known, _VALIDATION, validation, "use another --workdir")
            return
    write(workdir, found | {"weights": known["weights"]})


def own_streams(workdir: str | Path, config, split: str, overrides: dict[str, Any] | None = None) -> Streams:
    """(stream, weight) of what `split` of a run's own sources holds, if that is still the run's text.

    Args:
      workdir: of the run; an exported model has no data.json, and nothing is compared.
      config: the run's, with the overrides.
      split: see `data.splits`.
      overrides: dotted fields that were changed; other sources are not compared.
    Raises:
      UserError: text that is not what data.json says; names the source and the fix.
    """
    workdir, fix = Path(workdir), "name text to read by --source=SPEC"
    if not (workdir / FILE).exists() or set(_TEXT_FIELDS) & set(overrides or {}):
        return mixture.streams_for(config, split)
    known = read(workdir)
    # One index holds all splits of a source, so its training split shows any change, even one that empties another.
    if split == "train" or not (split == "validation" and config.data.validation_sources):
        _compare(workdir, known, _TRAIN, mixture.streams_for(config, "train"), fix)
    streams = mixture.streams_for(config, split)
    if split == "validation" and _VALIDATION in known:
        _compare(workdir, known, _VALIDATION, streams, fix)
    return streams


def _compare(workdir: Path, known: dict, part: str, streams: Streams, fix: str) -> None:
    """Raise UserError unless the streams have the checksums that a part of data.json holds."""
    # Older versions kept relative sources as they were.
    wanted = {sources.absolute(spec): checksum for spec, checksum in known[part].items()}
    changed = [spec for spec, checksum in _checksums(streams).items() if wanted.get(sources.absolute(spec)) != checksum]
    if changed:
        verb = "validated on" if part == _VALIDATION else "trained on"
        older = "" if _VALIDATION in known else " (it is of a version that dealt documents to splits by their names)"
        raise UserError(f"the text of {', '.join(changed)} is not what {workdir} was {verb}{older}: restore it, or {fix}")


def _checksums(streams: Streams) -> dict[str, str]:
    return {stream.spec: stream.checksum for stream, _ in streams}


def weights(workdir: Path, now: list[float], step: int) -> Weights:
    """(first step, weights) of a run that goes on from `step` with the weights `now`; also kept in data.json.

    Raises:
      UserError: data.json cannot be read.
    """
    known = read(workdir)
    found = history.follow(known["weights"], now, step)
    if found != known["weights"]:
        write(workdir, known | {"weights": found})
        logging.info("the sources have other weights from step %d on: %s", found[-1][0], ", ".join(map(str, now)))
    return found


def read(workdir: Path) -> dict:
    """The checksums of the text, by part, and the weights that are there. Raises UserError where they cannot be read."""
    path = workdir / FILE
    try:
        found = json_files.read(path, _Data)
        known = history.read(found["weights"])
        if len({len(each) for _, each in known}) > 1 or not all(sum(each) > 0 for _, each in known):
            raise ValueError("weights: each must hold one for every source, and not only zeros")
    except json_files.Malformed as error:
        raise UserError(f"cannot read {error}; restore it, or use another --workdir") from error
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path} ({error}); restore it, or use another --workdir") from error
    return {part: found[part] for part in (_TRAIN, _VALIDATION) if part in found} | {"weights": known}


def write(workdir: Path, text: dict[str, Any]) -> None:
    """Checksums and weights, as `read` gives them. Of several processes the first one writes them."""
    if jax.process_index() == 0:
        replace_text(workdir / FILE, json.dumps(text, indent=1) + "\n")
