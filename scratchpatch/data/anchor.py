"""A config that means the same from every working directory."""

import ml_collections

from scratchpatch import config as config_lib
from scratchpatch.data import paths, sources

_SOURCES = ("data.sources", "data.validation_sources")


def anchored(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """A copy whose sources and paths are absolute: `data/*.txt` is the text below the folder where the run started.

    URLs, the standard library and names that TensorFlow Datasets knows stay. Raises UserError for a source that is
    none.
    """
    made = config_lib.from_flat(config_lib.flat(config))
    for field in config_lib.FIELDS:
        value = config_lib.get(config, field.name)
        if field.path and value and not paths.is_url(value):
            config_lib.set_field(made, field.name, paths.absolute(value))
        elif field.name in _SOURCES:
            config_lib.set_field(made, field.name, tuple((sources.absolute(spec), weight) for spec, weight in value))
    return made
