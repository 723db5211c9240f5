"""A SPEC means one source, from every folder."""

import pytest

from scratchpatch.data import sources
from scratchpatch.errors import UserError


@pytest.mark.parametrize(
    "spec, expected",
    [
        ("stdlib:code", ("stdlib", "code", "")),
        ("text:/a/*.txt", ("text", "/a/*.txt", "")),
        ("text:/a/b#c.txt", ("text", "/a/b#c.txt", "")),
        ("text:/a/../b/./c", ("text", "/b/c", "")),
        ("jsonl:/a/*.gz", ("jsonl", "/a/*.gz", "text")),
        ("jsonl:/a/*.gz#body", ("jsonl", "/a/*.gz", "body")),
        ("jsonl:/c##/*.gz", ("jsonl", "/c#/*.gz", "text")),
        ("jsonl:/c##/*.gz#body", ("jsonl", "/c#/*.gz", "body")),
        ("jsonl:/c#/*.gz#body", ("jsonl", "/c#/*.gz", "body")),
        ("jsonl:/c###a##b", ("jsonl", "/c#", "a#b")),
        ("parquet:/a@b/c", ("parquet", "/a@b/c", "text")),
        ("hf:/me@@here/c##@dev#t", ("hf", "/me@here/c#", "t", "dev")),
        ("hf:/me@@here", ("hf", "/me@here", "text")),
        ("text:/me@here/c##", ("text", "/me@here/c##", "")),
    ],
)
def test_a_spec_is_a_scheme_a_target_and_a_field(spec, expected):
    assert sources.parse(spec).identity == expected


@pytest.mark.parametrize(
    "spec, says",
    [
        ("txt:/a", "the nearest is text:"),
        ("json:/a", "the nearest is jsonl:"),
        ("/a/b.txt", "has no known scheme"),
        ("stdlib:prosa", "the nearest is stdlib:prose"),
        ("text:", "lacks its path"),
        ("jsonl:#text", "lacks its path"),
        ("jsonl:/a#", "lacks its field"),
    ],
)
def test_a_wrong_spec_names_the_nearest(spec, says):
    with pytest.raises(UserError) as caught:
        sources.parse(spec)
    assert says in str(caught.value) and repr(spec) in str(caught.value)


@pytest.mark.parametrize("spec", ["jsonl:c#/a.jsonl", "hf:c@here#/x", "parquet:c#x.parquet"])
def test_an_error_says_how_a_mark_in_a_name_is_written(tmp_path, monkeypatch, spec):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"\(a #( or @)? that is part of a name is written twice\)"):
        sources.parse(spec).files()


RELATIVE = ["text:*.txt", "jsonl:./x/../*.txt#body", "parquet:a[[]1].txt", "text:a[1].txt"]
RELATIVE += ["hf:.@dev", "prepared:.", "tfds:nothing"]


@pytest.mark.parametrize("folder", ["plain", "c#", "me@here", "[v2]", "a*b"])
@pytest.mark.parametrize("spec", RELATIVE)
def test_an_absolute_spec_names_the_same_from_everywhere(tmp_path, monkeypatch, folder, spec):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "a[1].txt").write_text("x")
    monkeypatch.chdir(tmp_path / folder)
    here = sources.parse(spec)
    named = sources.absolute(spec)
    files = here.files() if spec.startswith(("text", "jsonl", "parquet")) else None
    monkeypatch.chdir("/")
    there = sources.parse(named)
    assert there.identity == here.identity and sources.absolute(named) == named
    if files is not None:
        assert there.files() == files and [path for _, path in files] == [f"{tmp_path}/{folder}/a[1].txt"]


def test_home_and_the_working_directory_are_understood(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert sources.parse("text:~/a.txt").identity == sources.parse("text:a.txt").identity
