"""Documents in other files than text and lines: compressed, columns, records, data sets of others, behind URLs."""

import gzip
import json
import os
import sys

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import tensorflow_datasets as tfds
import zstandard
from array_record.python.array_record_module import ArrayRecordWriter

from scratchpatch.data import columns, sources
from scratchpatch.data.index import open_stream
from scratchpatch.data.records import BadRecords, skipped
from scratchpatch.errors import UserError

TEXTS = [b"one", b"", "caf\u00e9 \u4e2d".encode(), b"x" * 300]


def read(spec, mode="error"):
    source, bad = sources.parse(spec), BadRecords(mode)
    return [(d.name, d.data) for d in source.documents(source.files(), bad)], bad


def texts(spec, mode="error"):
    return [data for _, data in read(spec, mode)[0]]


def write_arrow(path, column, name="text"):
    table = pa.table({"id": range(len(column)), name: column})
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table, max_chunksize=2)


def write_records(path, records):
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def test_zstandard_frames_one_after_the_other(tmp_path):
    lines = b"".join(json.dumps({"text": f"line {i}" * 50}).encode() + b"\n" for i in range(2000))
    pack = zstandard.ZstdCompressor().compress
    (tmp_path / "a.jsonl.zst").write_bytes(pack(lines[:50_000]) + pack(lines[50_000:]))
    (tmp_path / "a.txt.zst").write_bytes(pack(TEXTS[3]))
    assert texts(f"jsonl:{tmp_path}/a.jsonl.zst") == [f"line {i}".encode() * 50 for i in range(2000)]
    assert texts(f"text:{tmp_path}/*.txt.zst") == [TEXTS[3]]


@pytest.mark.parametrize("damage", ["cut", "plain"])
def test_a_damaged_zst_is_named_or_skipped(tmp_path, damage):
    random = np.random.default_rng(0).integers(97, 123, 300_000, np.uint8).tobytes()
    packed = zstandard.ZstdCompressor().compress(b'{"text": "x"}\n' + json.dumps({"text": random.decode()}).encode())
    path = tmp_path / "a.zst"
    path.write_bytes(packed[: len(packed) // 2] if damage == "cut" else b"no zstandard at all")
    with pytest.raises(UserError, match=r"a\.zst:\d: not a whole compressed file"):
        texts(f"jsonl:{path}")
    found, bad = read(f"jsonl:{path}", "skip")
    assert [data for _, data in found] == ([b"x"] if damage == "cut" else []) and bad.count == 1


KINDS = [pa.string(), pa.large_string(), pa.binary(), pa.string_view(), pa.binary_view()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_parquet_is_a_document(tmp_path, kind):
    table = pa.table({"id": range(4), "body": pa.array(TEXTS, pa.binary()).cast(kind)})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    spec = f"parquet:{tmp_path}/*.parquet#body"
    assert read(spec)[0] == [(f"a.parquet#{i}", data) for i, data in enumerate(TEXTS, 1)]


@pytest.mark.parametrize("write", [lambda table, path: pyarrow.parquet.write_table(table, path), lambda table, path: write_table(table, path)])
def test_columns_whose_meaning_is_clear_are_read(tmp_path, write):
    """Also bytes that are no UTF-8, from every kind of column that holds bytes."""
    column = pa.array([b"one", b"\xff", b"one"])
    plain = pa.table({
        "dictionary": column.dictionary_encode(),
        "nested": pa.array([{"body": {"text": "one"}, "n": 1}, {"body": {"text": "two"}, "n": 2}, {"body": None, "n": 3}]),
        "a.b": ["x", "y", "z"],
        "fixed": pa.array([b"abc", b"def", b"ghi"], pa.binary(3)),
        "json": pa.array(["{}", "[]", "1"], pa.json_()),
    })  # fmt: skip
    write(plain, tmp_path / "a.columns")
    read_columns = {"parquet": columns.read_parquet, "arrow": columns.read_arrow}["parquet" if (tmp_path / "a.columns").read_bytes()[:4] == b"PAR1" else "arrow"]

    def found(field, mode="error"):
        return [d.data for d in read_columns("a", str(tmp_path / "a.columns"), field, BadRecords(mode))]

    assert found("dictionary") == [b"one", b"\xff", b"one"]
    assert found("nested.body.text", "skip") == [b"one", b"two"]
    assert (found("a.b"), found("fixed"), found("json")) == ([b"x", b"y", b"z"], [b"abc", b"def", b"ghi"], [b"{}", b"[]", b"1"])
    with pytest.raises(UserError, match=r":3: column 'nested.body.text' holds null"):
        found("nested.body.text")


def write_table(table, path):
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, table.schema) as out:
        out.write_table(table)


@pytest.mark.parametrize("field, says", [
    ("text", r"has 2 columns named 'text', and nobody can say which is meant"),
    ("meta", r"column 'meta' holds struct<body: string, n: int64>, wanted string or binary; a field in it is named by a dot, such as #meta.body"),
    ("meta.n", r"column 'meta.n' holds int64, wanted string or binary"),
    ("meta.x", r"column 'meta' has no column 'meta.x' \(it has 'body', 'n'"),
    ("tags", r"column 'tags' holds list<.*string>, wanted string or binary"),
    ("tags.a", r"column 'tags' holds list<.*string>, wanted a struct with 'a'"),
    ("none", r"column 'none' holds null, wanted string or binary"),
])  # fmt: skip
def test_columns_whose_meaning_is_not_clear_are_named_and_count_their_rows(tmp_path, field, says):
    rows = 1000
    meta = pa.array([{"body": "x", "n": 1}] * rows)
    arrays = [pa.array(["a"] * rows), pa.array(["b"] * rows), meta, pa.array([["t"]] * rows), pa.nulls(rows), pa.array(["ok"] * rows)]
    table = pa.Table.from_arrays(arrays, ["text", "text", "meta", "tags", "none", "good"])
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    (tmp_path / "set").mkdir()
    write_table(table, tmp_path / "set/data.arrow")
    (tmp_path / "set/state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    for spec in (f"parquet:{tmp_path}/a.parquet", f"hf:{tmp_path}/set"):
        with pytest.raises(UserError, match=says) as caught:
            texts(f"{spec}#{field}")
        assert "\n" not in str(caught.value) and str(caught.value).startswith(f"{tmp_path}/")
        found, bad = read(f"{spec}#{field}", "skip")
        assert (found, bad.count, bad.broken) == ([], rows, 0)
        assert texts(f"{spec}#good") == [b"ok"] * rows


def test_what_breaks_off_counts_the_records_that_are_lost(tmp_path):
    """Where the file says how many it has; else it counts as broken."""
    table = pa.table({"text": [np.random.default_rng(i).bytes(100).hex() for i in range(1000)]})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path, row_group_size=100, use_dictionary=False, compression="gzip")
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 2000] = bytes(2000)
    path.write_bytes(data)
    found, bad = read(f"parquet:{path}", "skip")
    assert 0 < len(found) < 1000 and len(found) + bad.count == 1000 and bad.broken == 0
    records = tmp_path / "a.array_record"
    write_records(records, [np.random.default_rng(i).bytes(500) for i in range(1000)])
    data = bytearray(records.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 5000] = bytes(5000)
    records.write_bytes(data)
    found, bad = read(f"array_record:{records}", "skip")
    assert 0 < len(found) < 1000 and len(found) + bad.count == 1000 and bad.broken == 0
    packed = gzip.compress(b"".join(b'{"text": "%d"}\n' % i for i in range(1000)))
    (tmp_path / "a.jsonl").write_bytes(packed[: len(packed) // 2])
    found, bad = read(f"jsonl:{tmp_path}/a.jsonl", "skip")
    assert 0 < len(found) < 1000 and (bad.count, bad.broken) == (1, 1)
    assert "nobody knows how many records" in bad.messages[0]
    assert skipped(bad.count, bad.broken) == "1 bad record(s) skipped, and what follows in 1 file(s) that break off"


def test_bad_rows_columns_and_files_are_named_or_skipped(tmp_path):
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table({"text": ["a", None, "b"], "n": [1, 2, 3]}), path)
    spec = f"parquet:{path}"
    with pytest.raises(UserError, match=r"a\.parquet:2: column 'text' holds null.*on_bad_record=skip"):
        texts(spec)
    assert texts(spec, "skip") == [b"a", b"b"]
    with pytest.raises(UserError, match=r"has no column 'body' \(it has 'text', 'n'; another one is named after a #"):
        texts(f"{spec}#body")
    with pytest.raises(UserError, match="column 'n' holds int64, wanted string or binary"):
        texts(f"{spec}#n")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(UserError, match=r"a\.parquet:1: cannot be read"):
        texts(spec)
    found, bad = read(spec, "skip")
    assert found == [] and bad.count == 1


def test_a_record_is_a_document_byte_for_byte(tmp_path, awkward):
    write_records(tmp_path / "a.array_record", awkward * 30)
    assert texts(f"array_record:{tmp_path}/*.array_record") == awkward * 30
    assert read(f"array_record:{tmp_path}/a.array_record")[0][0] == ("a.array_record#1", awkward[0])


def test_a_damaged_array_record_is_named_or_skipped(tmp_path):
    path = tmp_path / "a.array_record"
    path.write_bytes(b"not an ArrayRecord" * 5000)
    with pytest.raises(UserError, match=r"a\.array_record:1: not a whole ArrayRecord file"):
        texts(f"array_record:{path}")
    found, bad = read(f"array_record:{path}", "skip")
    assert found == [] and bad.count == 1


def test_what_save_to_disk_writes_is_read(tmp_path):
    for split, column in (("train", ["a", "b", "c"]), ("test", ["d"])):
        write_arrow(tmp_path / "set" / split / "data-00000-of-00001.arrow", column)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}
        (tmp_path / "set" / split / "state.json").write_text(json.dumps(state))
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert texts(f"hf:{tmp_path}/set@train") == texts(f"hf:{tmp_path}/set/train") == [b"a", b"b", b"c"]
    assert texts(f"hf:{tmp_path}/set@test#text") == [b"d"]
    with pytest.raises(UserError, match=rf"has several splits \(train, test\); name one, as in hf:{tmp_path}/set@train"):
        texts(f"hf:{tmp_path}/set")
    with pytest.raises(UserError, match="there is no split 'dev'; the folder has train, test"):
        texts(f"hf:{tmp_path}/set@dev")
    (tmp_path / "set/test/data-00000-of-00001.arrow").write_bytes(b"no arrow")
    with pytest.raises(UserError, match=r"data-00000-of-00001\.arrow:1: cannot be read"):
        texts(f"hf:{tmp_path}/set@test")


STATE, DICT = "saved/state.json", "dataset_dict.json"


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
        (DICT, '{"splits": {"train": 1}}', "splits: Expected array, got object"),
        (DICT, '{"splits": ["saved", "../saved"]}', "'../saved' is no plain relative path below"),
        (DICT, "{", "it is no JSON"),
    ],
)
def test_a_hugging_face_folder_that_lies_is_named(tmp_path, file, text, says):
    (tmp_path / "saved").mkdir()
    (tmp_path / STATE).write_text('{"_data_files": []}')
    (tmp_path / file).write_text(text)
    with pytest.raises(UserError, match=f"{tmp_path}/{file} .*{says}") as caught:
        texts(f"hf:{tmp_path}" if file == DICT else f"hf:{tmp_path}/saved")
    assert "\n" not in str(caught.value)


def test_a_snapshot_of_the_hubs_cache_is_links_into_blobs(tmp_path):
    (tmp_path / "blobs").mkdir()
    write_parquets(tmp_path / "blobs", "0123.parquet")
    snapshot = tmp_path / "snapshots/4567"
    snapshot.mkdir(parents=True)
    (snapshot / "train.parquet").symlink_to("../../blobs/0123.parquet")
    write_arrow(tmp_path / "blobs/89ab", ["a"])
    (snapshot / "saved").mkdir()
    (snapshot / "saved/data.arrow").symlink_to("../../../blobs/89ab")
    (snapshot / "saved/state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    assert len(texts(f"hf:{snapshot}@train#content")) > 0 and texts(f"hf:{snapshot}/saved") == [b"a"]


def test_a_row_or_record_that_holds_too_much_is_named_or_skipped(tmp_path):
    pyarrow.parquet.write_table(pa.table({"text": ["a", "b" * 50, None, "c"]}), tmp_path / "a.parquet")
    write_records(tmp_path / "a.array_record", [b"a", b"b" * 50, b"c"])
    for spec, left_out in ((f"parquet:{tmp_path}/a.parquet", 2), (f"array_record:{tmp_path}/a.array_record", 1)):
        source, bad = sources.parse(spec), BadRecords("skip", 49)
        assert [d.data for d in source.documents(source.files(), bad)] == [b"a", b"c"] and bad.count == left_out
        assert ":2: holds 50 bytes, data.record_bytes = 49 allows no more than that: raise it" in bad.messages[0]
        assert len(texts(spec, "skip")) == 3


def test_a_snapshot_with_parquet_files_is_read(tmp_path):
    train = ["data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet"]
    write_parquets(tmp_path / "set", *train, "data/test-0.parquet", "data/train_sft-00000-of-00001-0a1b.parquet", "data/valid/part-00000-of-00001.parquet")
    spec = f"hf:{tmp_path}/set"
    assert texts(f"{spec}@train#content") == [name.encode() for name in train]
    assert texts(f"{spec}@train_sft#content") == [b"data/train_sft-00000-of-00001-0a1b.parquet"]
    assert texts(f"{spec}@valid#content") == texts(f"{spec}/data/valid#content") == [b"data/valid/part-00000-of-00001.parquet"]
    with pytest.raises(UserError, match=r"has several splits \(test, train, train_sft, valid\)"):
        texts(f"{spec}#content")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds neither what save_to_disk writes nor parquet files"):
        texts(f"hf:{tmp_path}/empty")
    with pytest.raises(UserError, match="no such folder"):
        texts(f"hf:{tmp_path}/none")


def write_parquets(folder, *names):
    """One row each, which holds the file's name."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pa.table({"content": [name]}), folder / name)


def test_configurations_of_one_snapshot_are_not_merged(tmp_path):
    write_parquets(tmp_path / "set", "de/train/0.parquet", "en/train/shard1/0.parquet", "en/train/shard2/0.parquet", "en/partial-test/0.parquet")
    spec = f"hf:{tmp_path}/set"
    for split in ("", "@train", "@test"):
        with pytest.raises(UserError, match=rf"several configurations \(de, en\), which are not merged: name one, as in hf:{tmp_path}/set/de, or"):
            texts(f"{spec}{split}#content")
    assert texts(f"{spec}/de#content") == [b"de/train/0.parquet"]
    assert texts(f"{spec}/en@train#content") == [b"en/train/shard1/0.parquet", b"en/train/shard2/0.parquet"]
    assert texts(f"{spec}/en@test#content") == [b"en/partial-test/0.parquet"]
    assert len(texts(f"parquet:{tmp_path}/set/**/*.parquet#content")) == 4


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


@pytest.mark.parametrize("kind", ["array_record", "parquet"])
def test_a_data_set_of_tfds_is_read_without_tensorflow(tmp_path, kind, capfd):
    Tiny(data_dir=tmp_path, file_format=kind).download_and_prepare()
    folder = f"{tmp_path}/tiny/1.0.0"
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


def test_a_data_set_of_tfds_that_lies_is_named(tmp_path):
    Tiny(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    folder = tmp_path / "tiny/1.0.0"
    path = folder / "dataset_info.json"
    about, outside = path.read_text(), str(tmp_path / "outside-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}")
    lies = ["null", "[]", "[" * 5000, "{", '{"splits": 3}', about.replace('"20"', '"-3"'), about.replace('"shardLengths"', '"numBytes"')]
    for text in lies:
        assert text != about
        path.write_text(text)
        try:
            texts(f"tfds:{folder}")
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 1000
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



@pytest.mark.parametrize("package, spec, extra", [
    ("pyarrow", "parquet:{}/a.parquet", "data"),
    ("zstandard", "text:{}/a.zst", "data"),
    ("pyarrow", "hf:{}/set", "data"),
    ("tensorflow_datasets", "tfds:mnist", "tfds"),
])  # fmt: skip
def test_a_missing_package_names_its_extra(tmp_path, monkeypatch, package, spec, extra):
    for name in ("a.parquet", "a.zst", "set/train.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\x28\xb5\x2f\xfd".ljust(20))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs the package {package}, .*scratchpatch\[{extra}\].*setup\.sh {extra}"):
        texts(spec.format(tmp_path))


@pytest.fixture
def bucket():
    """The URL of a folder in memory."""
    files = fsspec.filesystem("memory")
    yield "memory://bucket"
    files.rm("/bucket", recursive=True)


def test_sources_behind_a_url(bucket, tmp_path, cache):
    files = fsspec.filesystem("memory")
    files.pipe_file("/bucket/a.txt", TEXTS[2])
    files.pipe_file("/bucket/in/b.txt.gz", gzip.compress(TEXTS[0]))
    files.pipe_file("/bucket/c.jsonl", b'{"text": "1"}\n{"text": "2"}\n')
    pyarrow.parquet.write_table(pa.table({"text": ["p", "q"]}), tmp_path / "p.parquet")
    write_records(tmp_path / "r.array_record", [b"r", b"\xff"])
    for name in ("p.parquet", "r.array_record"):
        files.put_file(str(tmp_path / name), f"/bucket/{name}")
    assert read(f"text:{bucket}/**/*.txt*")[0] == [("a.txt", TEXTS[2]), ("in/b.txt.gz", TEXTS[0])]
    assert texts(f"jsonl:{bucket}/c.jsonl") == [b"1", b"2"]
    assert texts(f"parquet:{bucket}/*.parquet") == texts(f"hf:{bucket}") == [b"p", b"q"]
    assert texts(f"array_record:{bucket}/r.array_record") == texts(f"array_record:file://{tmp_path}/r.array_record") == [b"r", b"\xff"]
    before = open_stream(f"jsonl:{bucket}/c.jsonl", "all", cache)
    assert list(before.documents_iter()) == [b"1", b"2"]
    files.pipe_file("/bucket/c.jsonl", b'{"text": "3"}\n')
    assert list(open_stream(f"jsonl:{bucket}/c.jsonl", "all", cache).documents_iter()) == [b"3"]
    with pytest.raises(UserError, match=r"no file matches memory:///?bucket/none\*"):
        sources.parse(f"text:{bucket}/none*").files()


def test_a_url_of_an_unknown_kind_is_named():
    with pytest.raises(UserError, match="nothing://a/b: Protocol not known"):
        sources.parse("text:nothing://a/b").files()
