"""Data sets of TensorFlow Datasets that are on this machine, without TensorFlow.

NAME is a registered data set under $TFDS_DATA_DIR (`wikipedia/20230601.en`), or
the folder of a version (`.../1.0.0`); it must be stored as array_record or
parquet (`tfds build --file_format=array_record`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from scratchpatch.data.extras import need
from scratchpatch.data.records import BadRecords, Document, explain
from scratchpatch.errors import UserError

DEFAULT_SPLIT = "train"


def files(spec: str, name: str, split: str) -> list[tuple[str, str]]:
    """(name, path) of the files of a split, in order. Raises UserError where there is no such data set or split."""
    tfds = need("tensorflow_datasets", "tfds", spec)
    if os.path.isdir(os.path.expanduser(name)):
        builder = _open(spec, lambda: tfds.builder_from_directory(os.path.expanduser(name)))
    else:
        builder = _open(spec, lambda: tfds.builder(name, try_gcs=False))
    if split not in builder.info.splits:
        has = ", ".join(builder.info.splits) or f"nothing in {builder.data_path}: build it there, or set TFDS_DATA_DIR"
        raise UserError(f"{spec}: there is no split {split!r}; the data set has {has}")
    return [(path.name, str(path)) for path in builder.info.splits[split].filepaths]


def _open(spec: str, build):
    try:
        return build()
    except Exception as error:  # a dozen kinds, by what is wrong in the folder
        raise UserError(f"{spec}: {str(error).splitlines()[0] if str(error) else type(error).__name__}") from error


def read(name: str, path: str, field: str, split: str, bad: BadRecords) -> Iterator[Document]:
    """One document per example of a file; `field` may go into nested features by dots."""
    tfds = need("tensorflow_datasets", "tfds", path)
    number, count = 0, None
    try:
        builder = tfds.builder_from_directory(os.path.dirname(path))
        shard = [str(p) for p in builder.info.splits[split].filepaths].index(path)
        source = builder.as_data_source(split=f"{split}[{shard}shard]")
        count = len(source)
        for number in range(1, count + 1):
            data = _field_of(source[number - 1], field)
            if isinstance(data, bytes):
                yield Document(f"{name}#{number}", data)
            else:
                bad.add(f"{path}:{number}", f"feature {field!r} {data}; another one is named by tfds:NAME#FIELD")
    except OSError as error:
        bad.add(f"{path}:{number}", explain(error), records=count - number + 1 if count else None)
    except (RuntimeError, ValueError, IndexError, KeyError, NotImplementedError) as error:
        problem = f"cannot be read ({' '.join(str(error).split())[:200]})"
        bad.add(f"{path}:{number}", problem, records=count - number + 1 if count else None)


def _field_of(example: dict, field: str) -> bytes | str:
    """The bytes of a feature, or why there are none."""
    found = example
    for part in field.split("."):
        if not isinstance(found, dict) or part not in found:
            return f"is missing (it has {', '.join(map(repr, found)) if isinstance(found, dict) else 'no parts'})"
        found = found[part]
    if isinstance(found, str):
        return found.encode("utf-8", "surrogatepass")
    return found if isinstance(found, bytes) else f"holds a {type(found).__name__}, wanted text"
