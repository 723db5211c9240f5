"""Data sets of TensorFlow Datasets that are on this machine, without TensorFlow.

NAME is a registered data set under $TFDS_DATA_DIR (`wikipedia/20230601.en`), or
the folder of a version (`.../1.0.0`); it must be stored as array_record or
parquet (`tfds build --file_format=array_record`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from scratchpatch.data import paths
from scratchpatch.data.extras import need
from scratchpatch.data.records import BadRecords, Document, explain
from scratchpatch.errors import UserError

DEFAULT_SPLIT = "train"


def files(spec: str, name: str, split: str) -> list[tuple[str, str]]:
    """(name, path) of the files of a split, in order. Raises UserError where there is no such data set or split."""
    tfds = need("tensorflow_datasets", "tfds", spec)
    if os.path.isdir(os.path.expanduser(name)):
        _check_folder(spec, os.path.expanduser(name))
        builder = _open(spec, lambda: tfds.builder_from_directory(os.path.expanduser(name)))
    else:
        builder = _open(spec, lambda: tfds.builder(name, try_gcs=False))
    if split not in builder.info.splits:
        has = ", ".join(builder.info.splits) or f"nothing in {builder.data_path}: build it there, or set TFDS_DATA_DIR"
        raise UserError(f"{spec}: there is no split {split!r}; the data set has {has}")
    found = _open(spec, lambda: [str(path) for path in builder.info.splits[split].filepaths])
    folder = str(builder.data_path)
    for path in found:
        # The names come from dataset_info.json.
        if os.path.dirname(os.path.abspath(path)) != os.path.abspath(folder):
            raise UserError(f"{spec}: dataset_info.json names the file {path}, which is not in {folder}")
    return [(os.path.basename(path), path) for path in found]


def _check_folder(spec: str, folder: str) -> None:
    """Raise UserError where something in a folder would be waited for: the package opens what it finds."""
    for name in sorted(os.listdir(folder)):
        what = paths.irregular(os.path.join(folder, name))
        if what not in (None, "a folder"):
            raise UserError(f"{spec}: {os.path.join(folder, name)} is {what}, and only regular files are read")


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
            if isinstance(data, bytes) and len(data) > bad.record_bytes:
                bad.add_too_large(f"{path}:{number}", len(data))
            elif isinstance(data, bytes):
                yield Document(f"{name}#{number}", data)
            else:
                bad.add(f"{path}:{number}", f"feature {field!r} {data}; another one is named by tfds:NAME#FIELD")
    except OSError as error:
        bad.add(f"{path}:{number}", explain(error), records=count - number + 1 if count else None)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError, MemoryError, OverflowError) as error:
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
