"""A row of a parquet or Arrow file is a document, where it is clear which column holds text."""

import json
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from scratchpatch.errors import UserError
from tests.data.sources.reading import TEXTS, blank_the_middle, read, texts, write_arrow

KINDS = [pa.string(), pa.large_string(), pa.binary(), pa.string_view(), pa.binary_view()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_parquet_is_a_document(tmp_path, kind):
    table = pa.table({"id": range(4), "body": pa.array(TEXTS, pa.binary()).cast(kind)})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    spec = f"parquet:{tmp_path}/*.parquet#body"
    assert read(spec)[0] == [(f"a.parquet#{i}", data) for i, data in enumerate(TEXTS, 1)]


def both(folder, table):
    """The SPECs of a table in a parquet file, and in an Arrow file."""
    pyarrow.parquet.write_table(table, folder / "a.parquet")
    write_arrow(folder / "saved/data.arrow", table)
    (folder / "saved/state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    return f"parquet:{folder}/a.parquet", f"hf:{folder}/saved"


def test_columns_whose_meaning_is_clear_are_read(tmp_path):
    """Also bytes that are no UTF-8, from every kind of column that holds bytes."""
    bodies = [{"text": "one"}, {"text": "two"}, None]
    columns = {
        "dictionary": pa.array([b"one", b"\xff", b"one"]).dictionary_encode(),
        "nested": pa.array([{"body": body, "n": n} for n, body in enumerate(bodies)]),
        "a.b": ["x", "y", "z"],
        "fixed": pa.array([b"abc", b"def", b"ghi"], pa.binary(3)),
        "json": pa.array(["{}", "[]", "1"], pa.json_()),
    }
    for spec in both(tmp_path, pa.table(columns)):
        assert texts(f"{spec}#dictionary") == [b"one", b"\xff", b"one"]
        assert texts(f"{spec}#nested.body.text", "skip") == [b"one", b"two"]
        assert texts(f"{spec}#a.b") == [b"x", b"y", b"z"]
        assert texts(f"{spec}#fixed") == [b"abc", b"def", b"ghi"]
        assert texts(f"{spec}#json") == [b"{}", b"[]", b"1"]
        with pytest.raises(UserError, match=r":3: column 'nested.body.text' holds null"):
            texts(f"{spec}#nested.body.text")


UNCLEAR = {
    "text": r"has 2 columns named 'text', and nobody can say which is meant",
    "meta": r"column 'meta' holds struct<body: string, n: int64>, wanted string or binary; a field in it is named by "
    r"a dot, such as #meta.body",
    "meta.n": r"column 'meta.n' holds int64, wanted string or binary",
    "meta.x": r"column 'meta' has no column 'meta.x' \(it has 'body', 'n'",
    "tags": r"column 'tags' holds list<.*string>, wanted string or binary",
    "tags.a": r"column 'tags' holds list<.*string>, wanted a struct with 'a'",
    "none": r"column 'none' holds null, wanted string or binary",
}


@pytest.fixture(scope="module")
def unclear(tmp_path_factory):
    rows = 1000
    columns = {
        "text": pa.array(["a"] * rows),
        "meta": pa.array([{"body": "x", "n": 1}] * rows),
        "tags": pa.array([["t"]] * rows),
        "none": pa.nulls(rows),
        "good": pa.array(["ok"] * rows),
    }
    table = pa.Table.from_arrays([*columns.values(), columns["text"]], [*columns, "text"])
    return both(tmp_path_factory.mktemp("unclear"), table)


@pytest.mark.parametrize("field", UNCLEAR)
def test_columns_whose_meaning_is_not_clear_are_named_and_count_their_rows(unclear, field):
    for spec in unclear:
        with pytest.raises(UserError, match=UNCLEAR[field]) as caught:
            texts(f"{spec}#{field}")
        assert "\n" not in str(caught.value) and str(caught.value).startswith("/")
        documents, bad = read(f"{spec}#{field}", "skip")
        assert (documents, bad.count, bad.broken) == ([], 1000, 0)
        assert texts(f"{spec}#good") == [b"ok"] * 1000


def test_the_rows_after_damage_are_counted(tmp_path):
    table = pa.table({"text": [np.random.default_rng(i).bytes(100).hex() for i in range(1000)]})
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(table, path, row_group_size=100, use_dictionary=False, compression="gzip")
    blank_the_middle(path, 2000)
    documents, bad = read(f"parquet:{path}", "skip")
    assert 0 < len(documents) < 1000 and len(documents) + bad.count == 1000 and bad.broken == 0


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
    documents, bad = read(spec, "skip")
    assert documents == [] and bad.count == 1


def test_a_row_that_holds_too_much_is_named_or_skipped(tmp_path):
    for spec in both(tmp_path, pa.table({"text": ["a", "b" * 50, None, "c"]})):
        documents, bad = read(spec, "skip", record_bytes=49)
        assert [data for _, data in documents] == [b"a", b"c"] and bad.count == 2
        assert ":2: holds 50 bytes, data.record_bytes = 49 allows no more than that: raise it" in bad.messages[0]
        assert texts(spec, "skip") == [b"a", b"b" * 50, b"c"]


def test_an_arrow_file_whose_values_lie_outside_of_its_data_is_damaged(tmp_path):
    spec = both(tmp_path, pa.table({"text": ["a", "bc", "def"]}))[1]
    path = tmp_path / "saved/data.arrow"
    places = struct.pack("<4i", 0, 1, 3, 6)
    whole = path.read_bytes()
    assert places in whole
    for wrong in ((0, 1, -5, 6), (0, 1, 3, 1 << 30), (0, 4, 3, 6)):
        path.write_bytes(whole.replace(places, struct.pack("<4i", *wrong)))
        with pytest.raises(UserError, match=r"data\.arrow:1: cannot be read \("):
            texts(spec)
        documents, bad = read(spec, "skip")
        assert documents == [] and (bad.count, bad.broken) == (1, 1)
