"""Documents and their groups."""

import gzip
import json

import pytest
from hypothesis import given, strategies as st

from scratchpatch.errors import UserError
from scratchpatch.tasks import texts


def write_lines(path, records):
    path.write_bytes(gzip.compress("".join(json.dumps(record) + "\n" for record in records).encode()))
    return str(path)


@pytest.fixture
def lines(tmp_path):
    records = [{"text": "one", "lang": "eng", "path": "a/x.eng.txt"}, {"text": "zwei", "lang": "deu", "path": "b.txt"}]
    return write_lines(tmp_path / "two.jsonl.gz", records)


def groups(source, by):
    return [(text.group, text.data) for text in texts.read(source, by)]


def test_each_document_is_its_own_group(lines):
    assert groups(lines, "document") == [("two.jsonl.gz#1", b"one"), ("two.jsonl.gz#2", b"zwei")]


def test_a_file_is_a_group(lines):
    assert groups(lines, "source") == [("two.jsonl.gz", b"one"), ("two.jsonl.gz", b"zwei")]


@pytest.mark.parametrize(("by", "names"), [("language", ["eng", "deu"]), ("path", ["x.eng", "b"])])
def test_a_field_is_a_group(lines, by, names):
    assert [group for group, _ in groups(lines, by)] == names


def test_a_path_tells_the_language_where_no_field_does(tmp_path):
    source = write_lines(tmp_path / "udhr.jsonl.gz", [{"text": "x", "path": "udhr/abk.txt"}])
    assert groups(source, "language") == [("abk", b"x")]


def test_files_of_text_are_a_language_each(tmp_path):
    for language in ("eng", "deu"):
        (tmp_path / f"{language}.txt").write_text(language)
    assert groups(str(tmp_path / "*.txt"), "language") == [("deu", b"deu"), ("eng", b"eng")]
    assert groups(f"text:{tmp_path}/*.txt", "source") == [("deu.txt", b"deu"), ("eng.txt", b"eng")]


def test_a_mark_in_a_plain_path_is_part_of_it(tmp_path):
    (tmp_path / "c#.txt").write_text("sharp")
    assert groups(str(tmp_path / "c#.txt"), "document") == [("c#.txt", b"sharp")]


@pytest.mark.parametrize(
    ("by", "said"),
    [("genre", r"two.jsonl.gz:1: has no field 'genre' \(it has 'text', 'lang', 'path'"), ("number", "no field")],
)
def test_a_record_without_the_field_is_named(lines, by, said):
    with pytest.raises(UserError, match=said):
        texts.read(lines, by)


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "bad.jsonl").write_text('{"text": "a"}\n{"text": 3}\n')
    said = {
        "": "name it",
        f"{tmp_path}/none.txt": "no file matches",
        f"{tmp_path}/empty.jsonl": "holds no documents",
        f"{tmp_path}/bad.jsonl": "bad.jsonl:2: field 'text' holds a int",
    }
    for source, message in said.items():
        with pytest.raises(UserError, match=message):
            texts.read(source, "document")
    with pytest.raises(UserError, match="has no fields, so no 'genre'"):
        texts.read(f"{tmp_path}/a.txt", "genre")


def test_the_checksum_is_of_groups_and_bytes(lines):
    by_language, again, by_file = (texts.checksum(texts.read(lines, by)) for by in ("language", "lang", "source"))
    assert by_language == again != by_file


@given(st.text(), st.integers(0, 40))
def test_a_beginning_is_cut_between_characters(text, size):
    data = text.encode("utf-8", "surrogatepass")
    cut = texts.beginning(data, size)
    assert data.startswith(cut)
    if 0 < size < len(data):
        assert size - 4 < len(cut) <= size
        cut.decode("utf-8", "surrogatepass")
    else:
        assert cut == data


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_characters_are_those_of_the_text(text):
    assert texts.characters(text.encode()) == len(text)


def test_bytes_that_are_no_text_are_cut_where_the_size_says():
    assert texts.beginning(b"\x80" * 9, 5) == b"\x80" * 5
