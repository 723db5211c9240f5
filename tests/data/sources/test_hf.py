"""A row of what Hugging Face `datasets` saved, or of a snapshot of parquet files, is a document."""

import json

import pyarrow as pa
import pytest

from scratchpatch.errors import UserError
from tests.data.sources.reading import texts, write_arrow, write_parquets


def test_what_save_to_disk_writes_is_read(tmp_path):
    for split, column in (("train", ["a", "b", "c"]), ("test", ["d"])):
        table = pa.table({"id": range(len(column)), "text": column})
        write_arrow(tmp_path / "set" / split / "data-00000-of-00001.arrow", table, rows_per_batch=2)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
        (tmp_path / "set" / split / "state.json").write_text(json.dumps(state))
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert texts(f"hf:{tmp_path}/set@train") == texts(f"hf:{tmp_path}/set/train") == [b"a", b"b", b"c"]
    assert texts(f"hf:{tmp_path}/set@test#text") == [b"d"]
    says = rf"has several splits \(train, test\); name one, as in hf:{tmp_path}/set@train"
    with pytest.raises(UserError, match=says):
        texts(f"hf:{tmp_path}/set")
    with pytest.raises(UserError, match="there is no split 'dev'; the folder has train, test"):
        texts(f"hf:{tmp_path}/set@dev")
    (tmp_path / "set/test/data-00000-of-00001.arrow").write_bytes(b"no arrow")
    with pytest.raises(UserError, match=r"data-00000-of-00001\.arrow:1: cannot be read"):
        texts(f"hf:{tmp_path}/set@test")


STATE = "saved/state.json"
SPLITS = "dataset_dict.json"


@pytest.mark.parametrize(
    "file, text, says",
    [
        (STATE, "null", "Expected object, got null"),
        (STATE, "[" * 5000, "nested too deep|no JSON"),
        (STATE, '{"_data_files": 3}', "_data_files: Expected array, got int"),
        (STATE, '{"_data_files": [{"filename": 3}]}', r"_data_files\[0\].filename: Expected str, got int"),
        (STATE, '{"_data_files": [{}]}', "missing required field filename"),
        (STATE, '{"_data_files": [{"filename": "../a.arrow"}]}', "'../a.arrow' is no plain relative path below"),
        (STATE, '{"_data_files": [{"filename": "/etc/passwd"}]}', "'/etc/passwd' is no plain relative path below"),
        (SPLITS, '{"splits": {"train": 1}}', "splits: Expected array, got object"),
        (SPLITS, '{"splits": ["saved", "../saved"]}', "'../saved' is no plain relative path below"),
        (SPLITS, "{", "it is no JSON"),
    ],
)
def test_a_folder_that_lies_is_named(tmp_path, file, text, says):
    (tmp_path / "saved").mkdir()
    (tmp_path / STATE).write_text('{"_data_files": []}')
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=f"{tmp_path}/{file} .*{says}") as caught:
        texts(f"hf:{tmp_path}" if file == SPLITS else f"hf:{tmp_path}/saved")
    assert "\n" not in str(caught.value)


def test_a_snapshot_of_the_hubs_cache_is_links_into_blobs(tmp_path):
    (tmp_path / "blobs").mkdir()
    write_parquets(tmp_path / "blobs", "0123.parquet")
    snapshot = tmp_path / "snapshots/4567"
    snapshot.mkdir(parents=True)
    (snapshot / "train.parquet").symlink_to("../../blobs/0123.parquet")
    write_arrow(tmp_path / "blobs/89ab", pa.table({"text": ["a"]}))
    (snapshot / "saved").mkdir()
    (snapshot / "saved/data.arrow").symlink_to("../../../blobs/89ab")
    (snapshot / "saved/state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    assert texts(f"hf:{snapshot}@train#content") == [b"0123.parquet"] and texts(f"hf:{snapshot}/saved") == [b"a"]


def test_a_snapshot_with_parquet_files_is_read(tmp_path):
    train = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
    train_sft = "data/train_sft-00000-of-00001-0a1b.parquet"
    valid = "data/valid/part-00000-of-00001.parquet"
    write_parquets(tmp_path / "set", *train, "data/test-0.parquet", train_sft, valid)
    spec = f"hf:{tmp_path}/set"
    assert texts(f"{spec}@train#content") == [name.encode() for name in train]
    assert texts(f"{spec}@train_sft#content") == [train_sft.encode()]
    assert texts(f"{spec}@valid#content") == texts(f"{spec}/data/valid#content") == [valid.encode()]
    with pytest.raises(UserError, match=r"has several splits \(test, train, train_sft, valid\)"):
        texts(f"{spec}#content")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds neither what save_to_disk writes nor parquet files"):
        texts(f"hf:{tmp_path}/empty")
    with pytest.raises(UserError, match="no such folder"):
        texts(f"hf:{tmp_path}/none")


def test_configurations_of_one_snapshot_are_not_merged(tmp_path):
    english = ["en/train/shard1/0.parquet", "en/train/shard2/0.parquet", "en/partial-test/0.parquet"]
    write_parquets(tmp_path / "set", "de/train/0.parquet", *english)
    spec = f"hf:{tmp_path}/set"
    says = rf"several configurations \(de, en\), which are not merged: name one, as in hf:{tmp_path}/set/de, or"
    for split in ("", "@train", "@test"):
        with pytest.raises(UserError, match=says):
            texts(f"{spec}{split}#content")
    assert texts(f"{spec}/de#content") == [b"de/train/0.parquet"]
    assert texts(f"{spec}/en@train#content") == [name.encode() for name in english[:2]]
    assert texts(f"{spec}/en@test#content") == [english[2].encode()]
    assert len(texts(f"parquet:{tmp_path}/set/**/*.parquet#content")) == 4
