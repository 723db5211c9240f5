"""A document per example of a data set of TensorFlow Datasets that is on this machine, without TensorFlow.

NAME is a registered data set under $TFDS_DATA_DIR (`wikipedia/20230601.en`), or the folder of a version
(`.../1.0.0`); it must be stored as array_record or parquet (`tfds build --file_format=array_record`).
"""

import os
from collections.abc import Iterator

from scratchpatch.data import paths
from scratchpatch.data.extras import need
from scratchpatch.data.records import DAMAGE, BadRecords, Document, Problem, Records
from scratchpatch.data.sources.source import Source
from scratchpatch.errors import UserError


class TensorFlowDatasets(Source):
    form = "tfds:NAME[@split][#field]"
    default_split = "train"

    def _listed(self) -> list[tuple[str, str]]:
        need("tensorflow_datasets", "tfds", self.spec)
        try:
            folder, files = self._folder_and_files()
        except UserError:
            raise
        except Exception as error:  # a dozen kinds, by what is wrong in the folder
            raise self.wrong(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
        for path in files:
            # The names come from dataset_info.json.
            if os.path.dirname(os.path.abspath(path)) != os.path.abspath(folder):
                raise self.wrong(f"dataset_info.json names the file {path}, which is not in {folder}")
        return [(os.path.basename(path), path) for path in files]

    def _folder_and_files(self) -> tuple[str, list[str]]:
        """The data set's folder, and the files of the split. Raises whatever the package raises."""
        import tensorflow_datasets as tfds

        if os.path.isdir(self.target):
            # The package opens what lies in the folder, and would wait for a pipe.
            for name in sorted(os.listdir(self.target)):
                what = paths.irregular(path := os.path.join(self.target, name))
                if what not in (None, "a folder"):
                    raise self.wrong(f"{path} is {what}, and only regular files are read")
            builder = tfds.builder_from_directory(self.target)
        else:
            builder = tfds.builder(self.target, try_gcs=False)
        splits = builder.info.splits
        if self.split not in splits:
            has = ", ".join(splits) or f"nothing in {builder.data_path}: build it there, or set TFDS_DATA_DIR"
            raise self.wrong(f"there is no split {self.split!r}; the data set has {has}")
        return str(builder.data_path), [str(path) for path in splits[self.split].filepaths]

    def read(self, name: str, path: str, bad: BadRecords) -> Iterator[Document]:
        """The field may go into nested features by dots. The examples after one that cannot be read are bad too."""
        tfds = need("tensorflow_datasets", "tfds", path)
        with Records(name, path, bad, DAMAGE) as records:
            builder = tfds.builder_from_directory(os.path.dirname(path))
            shard = [str(p) for p in builder.info.splits[self.split].filepaths].index(path)
            examples = builder.as_data_source(split=f"{self.split}[{shard}shard]")
            records.count = len(examples) or None
            for i in range(len(examples)):
                yield from records.documents(_bytes_of(examples[i], self.field))


def _bytes_of(example: dict, field: str) -> bytes | Problem:
    value = example
    for name in field.split("."):
        if not isinstance(value, dict) or name not in value:
            has = ", ".join(map(repr, value)) if isinstance(value, dict) else "no parts"
            what = f"is missing (it has {has})"
            break
        value = value[name]
    else:
        if isinstance(value, (str, bytes)):
            return value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
        what = f"holds a {type(value).__name__}, wanted text"
    return Problem(f"feature {field!r} {what}; another one is named by tfds:NAME#FIELD")
