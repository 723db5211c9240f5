import gzip
import random

import pytest

from scratchpatch.data import records
from scratchpatch.data.records import BadRecords, read_jsonl, read_text
from scratchpatch.errors import UserError


def texts(path, mode="error", field="text"):
    bad = BadRecords(mode)
    return [d.data for d in read_jsonl("n", str(path), field, bad)], bad


def test_a_file_is_one_document_byte_for_byte(tmp_path):
    data = bytes(range(256)) + b"\r\n\xff\xfe"
    (tmp_path / "a.txt").write_bytes(data)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(data))
    for name in ("a.txt", "a.txt.gz"):
        assert [tuple(d) for d in read_text(name, str(tmp_path / name), BadRecords("error"))] == [(name, data)]


def test_a_line_is_one_document_named_by_its_number(write_lines):
    _, path = write_lines([{"text": "one"}, b"", b"  \t", {"text": ""}, {"text": "\ud800"}, {"text": "caf\u00e9"}])
    found = list(read_jsonl("n", str(path), "text", BadRecords("error")))
    assert found == [
        ("n#1", b"one"),
        ("n#4", b""),
        ("n#5", b"\xed\xa0\x80"),
        ("n#6", "caf\u00e9".encode()),
    ]


def test_compressed_lines_and_another_field(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"body": "x"}\n{"body": "y"}'))
    assert texts(path, field="body")[0] == [b"x", b"y"]


@pytest.mark.parametrize(
    "line, problem",
    [
        (b"{not json", "not JSON"),
        (b'{"text": "\xff"}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"9" * 5000, "holds a int, wanted an object"),
        (b'{"text": "x", "n": ' + b"9" * 5000, "not JSON (the line breaks off)"),
        (b'{"text": "x", "n": ' + b"9" * 5000 + b"]", "not JSON (unexpected ']', column 5020)"),
        (b'{"n": ' + b"9" * 5000 + b', "text": 3}', "field 'text' holds a int"),
        (b'{"n": ' + b"9" * 5000 + b', "body": "x"}', "has no field 'text' (it has 'n', 'body'"),
        (b'{"text": "a", "n": ' + b"9" * 5000 + b', "text": ' + b"[" * 5000 + b"]" * 5000 + b"}", "field 'text' holds a list"),
        (b"[1, 2]", "holds a list, wanted an object"),
        (b'{"body": "x"}', "has no field 'text' (it has 'body'"),
        (b"{}", "no fields at all"),
        (b'{"text": 3}', "field 'text' holds a int, wanted a string"),
        (b'{"text": null}', "holds a NoneType"),
    ],
)
def test_a_bad_line_is_named_or_skipped(write_lines, line, problem):
    _, path = write_lines([{"text": "good"}, b"", line, {"text": "after"}])
    with pytest.raises(UserError) as caught:
        texts(path)
    assert str(caught.value).startswith(f"{path}:3: ") and problem in str(caught.value)
    assert "data.on_bad_record=skip" in str(caught.value) and "\n" not in str(caught.value)
    documents, bad = texts(path, "skip")
    assert documents == [b"good", b"after"]
    assert bad.count == 1 and bad.messages[0].startswith(f"{path}:3: ")


@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_a_long_line_is_passed_over_piece_by_piece(tmp_path, monkeypatch, where):
    short, long = [b'{"text": "a"}', b'{"text": "b"}'], b'{"text": "' + b"x" * 5000 + b'"}'
    lines = {"first": [long, *short], "middle": [short[0], long, short[1]], "last": [*short, long]}[where]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    monkeypatch.setattr(records, "_PIECE", 100)
    bad = BadRecords("skip", record_bytes=1000)
    found = list(read_jsonl("n", str(tmp_path / "a.jsonl"), "text", bad))
    assert [d.data for d in found] == [b"a", b"b"] and bad.count == 1
    number = lines.index(long) + 1
    assert [d.name for d in found] == [f"n#{i}" for i in (1, 2, 3) if i != number]
    assert bad.messages == [
        f"{tmp_path}/a.jsonl:{number}: is longer, data.record_bytes = 1000 allows no more than that: "
        "raise it (prepare: --record_bytes) where it is meant to be so long"
    ]
    assert [len(d.data) for d in read_jsonl("n", str(tmp_path / "a.jsonl"), "text", BadRecords("error", len(long)))] == [
        1 if line in short else 5000 for line in lines
    ]


def test_a_packed_text_may_be_a_hundred_times_its_size_or_as_large_as_a_record(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_FIRST", 1000)
    monkeypatch.setattr(records, "_PIECE", 1000)
    path = tmp_path / "bomb"
    path.write_bytes(gzip.compress(bytes(3_000_000)))

    def whole(most):
        return b"".join(piece for document in read_text("n", str(path), BadRecords("error", most)) for piece in document.pieces)

    for most in (1000, 2_999_999):
        with pytest.raises((UserError, records.Broken), match=f"unpacks to more, data.record_bytes = {most} allows no more"):
            whole(most)
    assert whole(3_000_000) == bytes(3_000_000)
    data = random.Random(0).randbytes(200) * 200
    path.write_bytes(gzip.compress(data))
    assert len(data) > 40 * path.stat().st_size
    assert whole(10) == data


def test_many_bad_records_are_counted_but_not_all_kept(write_lines):
    _, path = write_lines([b"?"] * 50)
    _, bad = texts(path, "skip")
    assert bad.count == 50 and len(bad.messages) == 20


def test_a_vanished_file_is_named(tmp_path):
    gone = str(tmp_path / "gone.txt")
    for read in (lambda bad: read_text("n", gone, bad), lambda bad: read_jsonl("n", gone, "text", bad)):
        with pytest.raises(UserError, match=r"gone\.txt.*vanished"):
            list(read(BadRecords("error")))
        bad = BadRecords("skip")
        assert list(read(bad)) == [] and bad.count == 1


def test_a_forbidden_file_is_named(tmp_path, monkeypatch):
    def forbidden(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("scratchpatch.files.os.open", forbidden)
    with pytest.raises(UserError, match="no permission to read"):
        list(read_text("n", str(tmp_path / "a.txt"), BadRecords("error")))


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
    with pytest.raises((UserError, records.Broken), match=r"a\.gz.*not a whole compressed file"):
        [list(document.pieces) for document in read_text("n", str(path), BadRecords("error"))]
    with pytest.raises(UserError, match=r"a\.gz:\d+: not a whole compressed file"):
        texts(path)
    documents, bad = texts(path, "skip")
    assert bad.count == 1
    assert (len(documents) == 0) == (damage == "plain")
