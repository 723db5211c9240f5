"""Which streams a config trains, validates and tests on."""

from scratchpatch.data import index, sources, splits, tokenizer
from scratchpatch.data.sources import Source
from scratchpatch.data.stream import Stream
from scratchpatch.errors import UserError


def streams_for(config, split: str) -> list[tuple[Stream, float]]:
    """(stream, weight) of every source that `split` reads.

    Without data.validation_sources every source is dealt to train, validation and test. With them, sources are read
    whole: data.sources to train, data.validation_sources to validate; then there is no test split. The standard library
    and prepared folders always keep their splits. Raises UserError where anything is wrong with a source, or the test
    split does not exist.
    """
    splits.check(split)
    validating = bool(config.data.validation_sources)
    if split == "test" and validating:
        raise UserError(
            "data.validation_sources leaves no test split of data.sources: name a source to evaluate on, "
            "or take the validation split"
        )
    pairs = config.data.validation_sources if split == "validation" and validating else config.data.sources
    parsed = [(sources.parse(spec), float(weight)) for spec, weight in pairs]
    return [(_open(config, source, split, dealt=not validating), weight) for source, weight in parsed]


def evaluation_stream(config, spec: str, split: str) -> Stream:
    """The stream of a source named at evaluation. The standard library, prepared folders, and a source that the config
    deals to splits, give the split asked for. Any other source was not trained on and is read whole.
    """
    splits.check(split)
    source = sources.parse(spec)
    trained_on = [sources.parse(own).identity for own, _ in config.data.sources]
    return _open(config, source, split, source.identity in trained_on and not config.data.validation_sources)


def _open(config, source: Source, split: str, dealt: bool) -> Stream:
    data = config.data
    split = split if dealt or source.keeps_splits else "all"
    limits = data.on_bad_record, data.held_out, data.record_bytes
    return index.open_source(source, split, data.cache_dir, *limits, tokenizer.of(config))
