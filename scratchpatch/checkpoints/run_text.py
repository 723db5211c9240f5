"""data.json of a run: the text that it reads, and the weights of its sources by step.

    {"checksums": {SPEC: checksum of its training split},
     "validation_checksums": {SPEC: checksum of its validation split}   (absent in runs of older versions)
     "weights": [[first step, [weight, ...]], ...]}

Text that has changed is refused wherever a run's own splits are read: its batches would be others, and what was held
out may be what the run trained on. A run may go on with other weights in data.sources, see `history`.
"""

import json
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import msgspec
from absl import logging

from scratchpatch import json_files
from scratchpatch.checkpoints import history
from scratchpatch.checkpoints.history import History
from scratchpatch.data import mixture, sources
from scratchpatch.data.stream import Stream
from scratchpatch.distributed import processes
from scratchpatch.errors import UserError
from scratchpatch.json_files import Count

FILE = "data.json"
Weights = History[list[float]]
Streams = list[tuple[Stream, float]]
_TRAIN, _VALIDATION = "checksums", "validation_checksums"
# Where a command changes one of these fields, it reads other text than the run's own.
_TEXT_FIELDS = {"data.sources", "data.validation_sources", "data.held_out"}


class _Data(TypedDict):
    checksums: dict[str, str]
    validation_checksums: NotRequired[dict[str, str]]
    weights: list[tuple[Count, list[Annotated[float, msgspec.Meta(ge=0, le=1e300)]]]]


def guard_training(workdir: Path, streams: Streams) -> None:
    """Raise UserError, which names the source, where a run is about to train on streams whose text has changed."""
    if (workdir / FILE).exists():
        _compare(workdir, read(workdir), _TRAIN, streams, "use another --workdir")


def guard(workdir: Path, streams: Streams, validation: Streams) -> None:
    """Raise UserError, which names the source, where the text that a run trains or validates on has changed. data.json
    is written where it, or its part about validation, is missing.
    """
    weights = [(0, [weight for _, weight in streams])]
    if (workdir / FILE).exists():
        guard_training(workdir, streams)
        stored = read(workdir)
        if _VALIDATION in stored:
            _compare(workdir, stored, _VALIDATION, validation, "use another --workdir")
            return
        weights = stored["weights"]
    document = {_TRAIN: _checksums(streams), _VALIDATION: _checksums(validation), "weights": weights}
    history.write(workdir / FILE, document)


def own_streams(workdir: str | Path, config, split: str, overrides: dict[str, Any] | None = None) -> Streams:
    """(stream, weight) of what `split` of a run's own sources holds, if that is still the run's text. `workdir` may be
    an exported model, which has no data.json to compare with. `config` has the overrides, and where they (dotted
    fields) name other sources, nothing is compared. Raises UserError, which names the source and the fix, where the
    text is not what data.json says.
    """
    workdir, fix = Path(workdir), "name text to read by --source=SPEC"
    if not (workdir / FILE).exists() or _TEXT_FIELDS & set(overrides or {}):
        return mixture.streams_for(config, split)
    stored = read(workdir)
    # One index holds all splits of a source, so its training split shows any change, even one that empties another.
    if split == "train" or not (split == "validation" and config.data.validation_sources):
        _compare(workdir, stored, _TRAIN, mixture.streams_for(config, "train"), fix)
    streams = mixture.streams_for(config, split)
    if split == "validation" and _VALIDATION in stored:
        _compare(workdir, stored, _VALIDATION, streams, fix)
    return streams


def agreed_streams(
    workdir: str | Path, config, source: str | None, split: str, overrides: dict[str, Any] | None = None
) -> Streams:
    """(stream, weight) of what `split` holds of a source, a SPEC, or of the run's own (see `own_streams`) where that is
    None: the same text in all processes, which must all ask. Raises UserError as `own_streams` does, in all of them,
    and where the text of one differs.
    """

    def streams() -> Streams:
        if source is None:
            return own_streams(workdir, config, split, overrides)
        return [(mixture.evaluation_stream(config, source, split), 1.0)]

    opened = processes.together(streams)
    agree(f"the text of {split}", opened)
    return opened


def agree(name: str, streams: Streams) -> None:
    """Raise UserError, which calls the streams by this name, unless their text is the same in all processes."""
    processes.agree({name: json.dumps([(stream.spec, stream.checksum) for stream, _ in streams])})


def weights(workdir: Path, now: list[float], step: int) -> Weights:
    """The weights of a run that goes on from `step` with the weights `now`; data.json holds them, too. Raises UserError
    where data.json cannot be read.
    """
    stored = read(workdir)
    followed = history.follow(stored["weights"], now, step)
    if followed != stored["weights"]:
        history.write(workdir / FILE, stored | {"weights": followed})
        start, names = followed[-1][0], ", ".join(map(str, now))
        logging.info("the sources have other weights from step %d on: %s", start, names)
    return followed


def read(workdir: Path) -> dict[str, Any]:
    """The checksums of the text and the weights in a workdir. Raises UserError where they cannot be read."""
    path = workdir / FILE
    with history.reading(path):
        document = json_files.read(path, _Data)
        by_step = history.parse(document["weights"])
        if len({len(each) for _, each in by_step}) > 1 or not all(sum(each) > 0 for _, each in by_step):
            raise ValueError("weights: each must hold one for every source, and not only zeros")
    return {name: document[name] for name in (_TRAIN, _VALIDATION) if name in document} | {"weights": by_step}


def _compare(workdir: Path, stored: dict[str, Any], key: str, streams: Streams, fix: str) -> None:
    """Raise UserError unless the streams have the checksums that data.json holds under a key."""
    # Older versions kept relative sources as they were.
    wanted = {sources.absolute(spec): checksum for spec, checksum in stored[key].items()}
    changed = [s for s, checksum in _checksums(streams).items() if wanted.get(sources.absolute(s)) != checksum]
    if changed:
        verb = "validated on" if key == _VALIDATION else "trained on"
        older = "" if _VALIDATION in stored else " (it is of a version that dealt documents to splits by their names)"
        says = f"the text of {', '.join(changed)} is not what {workdir} was {verb}{older}"
        raise UserError(f"{says}: restore it, or {fix}")


def _checksums(streams: Streams) -> dict[str, str]:
    return {stream.spec: stream.checksum for stream, _ in streams}
