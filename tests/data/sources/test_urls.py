"""Sources behind URLs, and kinds whose package is missing."""

import gzip
import sys

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest

from scratchpatch.data import sources
from scratchpatch.data.index import open_stream
from scratchpatch.errors import UserError
from tests.data.sources.reading import TEXTS, read, texts, write_records


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
    for url in (bucket, f"file://{tmp_path}"):
        assert texts(f"array_record:{url}/r.array_record") == [b"r", b"\xff"]
    before = open_stream(f"jsonl:{bucket}/c.jsonl", "all", cache)
    assert list(before.documents_iter()) == [b"1", b"2"]
    files.pipe_file("/bucket/c.jsonl", b'{"text": "3"}\n')
    assert list(open_stream(f"jsonl:{bucket}/c.jsonl", "all", cache).documents_iter()) == [b"3"]
    with pytest.raises(UserError, match=r"no file matches memory:///?bucket/none\*"):
        sources.parse(f"text:{bucket}/none*").files()


def test_a_url_of_an_unknown_kind_is_named():
    with pytest.raises(UserError, match="nothing://a/b: Protocol not known"):
        sources.parse("text:nothing://a/b").files()


@pytest.mark.parametrize(
    "package, spec, extra",
    [
        ("pyarrow", "parquet:{}/a.parquet", "data"),
        ("zstandard", "text:{}/a.zst", "data"),
        ("pyarrow", "hf:{}/set", "data"),
        ("tensorflow_datasets", "tfds:mnist", "tfds"),
    ],
)
def test_a_missing_package_names_its_extra(tmp_path, monkeypatch, package, spec, extra):
    for name in ("a.parquet", "a.zst", "set/train.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"\x28\xb5\x2f\xfd".ljust(20))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"needs the package {package}, .*scratchpatch\[{extra}\].*setup\.sh {extra}"):
        texts(spec.format(tmp_path))
