"""A text file is a document, and so is a line of JSON; what cannot be read is named, or skipped and counted."""

import gzip
import random

import pytest

from scratchpatch.data.records import Broken, skipped
from scratchpatch.data.sources import jsonl, text
from scratchpatch.errors import UserError
from tests.data.sources.reading import read, texts


def test_a_file_is_one_document_byte_for_byte(tmp_path):
    data = bytes(range(256)) + b"\r\n\xff\xfe"
    (tmp_path / "a.txt").write_bytes(data)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(data))
    for name in ("a.txt", "a.txt.gz"):
        assert read(f"text:{tmp_path}/{name}")[0] == [(name, data)]


def test_a_line_is_one_document_named_by_its_number(write_lines):
    spec, _ = write_lines([{"text": "one"}, b"", b"  \t", {"text": ""}, {"text": "\ud800"}, {"text": "caf\u00e9"}])
    assert read(spec)[0] == [
        ("lines.jsonl#1", b"one"),
        ("lines.jsonl#4", b""),
        ("lines.jsonl#5", b"\xed\xa0\x80"),
        ("lines.jsonl#6", "caf\u00e9".encode()),
    ]


def test_compressed_lines_and_another_field(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"body": "x"}\n{"body": "y"}'))
    assert texts(f"jsonl:{tmp_path}/a.jsonl.gz#body") == [b"x", b"y"]


LONG = b"9" * 5000  # more digits than Python's parser reads
DEEP = b"[" * 5000 + b"]" * 5000


@pytest.mark.parametrize(
    "line, problem",
    [
        (b"{not json", "not JSON"),
        (b'{"text": "\xff"}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (LONG, "holds a int, wanted an object"),
        (b'{"text": "x", "n": ' + LONG, "not JSON (the line breaks off)"),
        (b'{"text": "x", "n": ' + LONG + b"]", "not JSON (unexpected ']', column 5020)"),
        (b'{"n": ' + LONG + b', "text": 3}', "field 'text' holds a int"),
        (b'{"n": ' + LONG + b', "body": "x"}', "has no field 'text' (it has 'n', 'body'"),
        (b'{"text": "a", "n": ' + LONG + b', "text": ' + DEEP + b"}", "field 'text' holds a list"),
        (b"[1, 2]", "holds a list, wanted an object"),
        (b'{"body": "x"}', "has no field 'text' (it has 'body'"),
        (b"{}", "no fields at all"),
        (b'{"text": 3}', "field 'text' holds a int, wanted a string"),
        (b'{"text": null}', "holds a NoneType"),
    ],
)
def test_a_bad_line_is_named_or_skipped(write_lines, line, problem):
    spec, path = write_lines([{"text": "good"}, b"", line, {"text": "after"}])
    with pytest.raises(UserError) as caught:
        texts(spec)
    assert str(caught.value).startswith(f"{path}:3: ") and problem in str(caught.value)
    assert "data.on_bad_record=skip" in str(caught.value) and "\n" not in str(caught.value)
    documents, bad = read(spec, "skip")
    assert [data for _, data in documents] == [b"good", b"after"]
    assert bad.count == 1 and bad.messages[0].startswith(f"{path}:3: ")


@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_long_line_is_passed_over_piece_by_piece(tmp_path, monkeypatch, where):
    a, b, long = b'{"text": "a"}', b'{"text": "b"}', b'{"text": "' + b"x" * 5000 + b'"}'
    lines = {"first": [long, a, b], "middle": [a, long, b], "last": [a, b, long]}[where]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    spec = f"jsonl:{tmp_path}/a.jsonl"
    monkeypatch.setattr(jsonl, "_PIECE", 100)
    documents, bad = read(spec, "skip", record_bytes=1000)
    assert [data for _, data in documents] == [b"a", b"b"] and bad.count == 1
    number = lines.index(long) + 1
    assert [name for name, _ in documents] == [f"a.jsonl#{i}" for i in (1, 2, 3) if i != number]
    assert bad.messages == [
        f"{tmp_path}/a.jsonl:{number}: is longer, data.record_bytes = 1000 allows no more than that: "
        "raise it (prepare: --record_bytes) where it is meant to be so long"
    ]
    whole = texts(spec, record_bytes=len(long))
    assert [len(data) for data in whole] == [5000 if line is long else 1 for line in lines]


def test_a_packed_text_may_be_a_hundred_times_its_size_or_as_large_as_a_record(tmp_path, monkeypatch):
    monkeypatch.setattr(text, "_FIRST_PIECE", 1000)
    monkeypatch.setattr(text, "_PIECE", 1000)
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(bytes(3_000_000)))
    for most in (1000, 2_999_999):
        with pytest.raises((UserError, Broken), match=f"unpacks to more, data.record_bytes = {most} allows no more"):
            texts(f"text:{path}", record_bytes=most)
    assert texts(f"text:{path}", record_bytes=3_000_000) == [bytes(3_000_000)]
    data = random.Random(0).randbytes(200) * 200
    path.write_bytes(gzip.compress(data))
    assert len(data) > 40 * path.stat().st_size
    assert texts(f"text:{path}", record_bytes=10) == [data]


def test_many_bad_records_are_counted_but_not_all_messages_stay(write_lines):
    _, bad = read(write_lines([b"?"] * 50)[0], "skip")
    assert bad.count == 50 and len(bad.messages) == 20


def test_what_was_left_out_is_said_in_words():
    assert skipped(1, 1) == "1 bad record(s) skipped, and what follows in 1 file(s) that break off"
    assert skipped(2000, 0) == "2,000 bad record(s) skipped"


def test_a_forbidden_file_is_named(tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "a.txt").write_text("x")
    monkeypatch.setattr("scratchpatch.files.os.open", forbidden)
    with pytest.raises(UserError, match="no permission to read"):
        texts(f"text:{tmp_path}/a.txt")


@pytest.mark.parametrize("damage", ["cut", "flipped", "plain"])
def test_a_damaged_gz_is_named(tmp_path, damage):
    packed = bytearray(gzip.compress(b'{"text": "x"}\n' * 20_000, compresslevel=0))
    if damage == "cut":
        packed = packed[: len(packed) // 2]
    elif damage == "flipped":
        packed[-6] ^= 1
    else:
        packed = bytearray(b"no gzip at all")
    path = tmp_path / "a.gz"
    path.write_bytes(packed)
    with pytest.raises((UserError, Broken), match=r"a\.gz.*not a whole compressed file"):
        texts(f"text:{path}")
    with pytest.raises(UserError, match=r"a\.gz:\d+: not a whole compressed file"):
        texts(f"jsonl:{path}")
    documents, bad = read(f"jsonl:{path}", "skip")
    assert bad.count == 1
    assert (len(documents) == 0) == (damage == "plain")
