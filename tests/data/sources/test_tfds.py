"""An example of a data set of TensorFlow Datasets is a document, without TensorFlow."""

import json
import os
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from scratchpatch.errors import UserError
from tests.data.sources.reading import texts


class Tiny(tfds.core.GeneratorBasedBuilder):
    """Twenty documents to train on and three to test."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = {}  # nothing to download, so nobody looks for checksums beside this file

    def _info(self):
        nested = {"body": tfds.features.Text(), "n": np.int64}
        features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "nested": nested})
        return tfds.core.DatasetInfo(builder=self, features=features, description="Tiny.")

    def _split_generators(self, _):
        return {"train": self._generate_examples(20), "test": self._generate_examples(3)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"text": f"document {i} \u00e9", "nested": {"body": f"body {i}", "n": i}}


def build(folder, kind):
    Tiny(data_dir=folder, file_format=kind).download_and_prepare()
    return folder / "tiny/1.0.0"


@pytest.mark.parametrize("kind", ["array_record", "parquet"])
def test_a_data_set_is_read_without_tensorflow(tmp_path, kind):
    folder = build(tmp_path, kind)
    assert sorted(texts(f"tfds:{folder}")) == sorted(f"document {i} \u00e9".encode() for i in range(20))
    assert sorted(texts(f"tfds:{folder}@test#nested.body")) == [b"body 0", b"body 1", b"body 2"]
    assert "tensorflow" not in sys.modules
    with pytest.raises(UserError, match="there is no split 'dev'; the data set has train, test"):
        texts(f"tfds:{folder}@dev")
    with pytest.raises(UserError, match=r":1: feature 'body' is missing \(it has 'nested', 'text'\)"):
        texts(f"tfds:{folder}#body")
    with pytest.raises(UserError, match="feature 'nested.n' holds a int(64)?, wanted text"):
        texts(f"tfds:{folder}#nested.n")
    with pytest.raises(UserError, match="Dataset nothing_of_this_name not found"):
        texts("tfds:nothing_of_this_name")


def test_a_data_set_that_lies_is_named(tmp_path):
    folder = build(tmp_path, "array_record")
    path = folder / "dataset_info.json"
    about = path.read_text()
    lies = ["null", "[]", "[" * 5000, "{", '{"splits": 3}']
    lies += [about.replace('"20"', '"-3"'), about.replace('"shardLengths"', '"numBytes"')]
    for text in lies:
        assert text != about
        path.write_text(text)
        try:
            texts(f"tfds:{folder}")
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
    outside = f"{tmp_path}/outside-{{SPLIT}}.{{FILEFORMAT}}-{{SHARD_X_OF_Y}}"
    for template in (outside, "../{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"):
        info = json.loads(about)
        for split in info["splits"]:
            split["filepathTemplate"] = template
        path.write_text(json.dumps(info))
        with pytest.raises(UserError, match=f"dataset_info.json names the file .*, which is not in {folder}"):
            texts(f"tfds:{folder}")
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(UserError, match=f"{path} is a named pipe, and only regular files are read"):
        texts(f"tfds:{folder}")
