"""Which streams a config trains, validates and tests on."""

from __future__ import annotations

from scratchpatch.data import sources, splits
from scratchpatch.data.index import open_stream
from scratchpatch.data.stream import Stream
from scratchpatch.errors import UserError


def streams_for(config, split: str) -> list[tuple[Stream, float]]:
    """(stream, weight) of every source that `split` reads.

    Without data.validation_sources every source is dealt to train, validation
    and test. With them, sources are read whole: data.sources to train,
    data.validation_sources to validate; then there is no test split. The
    standard library and prepared folders always keep their splits.

    Raises:
        UserError: anything wrong with a source, or a test split that does not exist.
    """
    splits.check(split)
    validating = bool(config.data.validation_sources)
    if split == "test" and validating:
        raise UserError(
            "data.validation_sources leaves no test split of data.sources: name a source to evaluate on, "
            "or take the validation split"
        )
    pairs = config.data.validation_sources if split == "validation" and validating else config.data.sources
    return [
        (_open(config, spec, split if not validating or sources.parse(spec).keeps_splits else "all"), float(weight))
        for spec, weight in pairs
    ]


def evaluation_stream(config, spec: str, split: str) -> Stream:
    """The stream of a source named at evaluation.

    The standard library, prepared folders, and a source that the config deals
    into splits, give the split asked for. Any other source was not trained on and is read whole.
    """
    splits.check(split)
    source = sources.parse(spec)
    own = [sources.parse(known).identity for known, _ in config.data.sources]
    dealt = source.keeps_splits or (source.identity in own and not config.data.validation_sources)
    return _open(config, spec, split if dealt else "all")


def _open(config, spec: str, split: str) -> Stream:
    return open_stream(spec, split, config.data.cache_dir, config.data.on_bad_record, config.data.held_out, config.data.record_bytes)
