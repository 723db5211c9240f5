import os
import socket
from pathlib import Path

import pytest

from scratchpatch.data import sources
from scratchpatch.data.index import open_stream
from scratchpatch.data.records import BadRecords
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


@pytest.mark.parametrize("folder", ["plain", "c#", "me@here", "[v2]", "a*b"])
@pytest.mark.parametrize("spec", ["text:*.txt", "jsonl:./x/../*.txt#body", "parquet:a[[]1].txt", "text:a[1].txt", "hf:.@dev", "prepared:.", "tfds:nothing"])
def test_an_absolute_spec_names_the_same_from_everywhere(tmp_path, monkeypatch, folder, spec):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "a[1].txt").write_text("x")
    monkeypatch.chdir(tmp_path / folder)
    here, named = sources.parse(spec), sources.absolute(spec)
    files = here.files() if spec.startswith(("text", "jsonl", "parquet")) else None
    monkeypatch.chdir("/")
    there = sources.parse(named)
    assert there.identity == here.identity and sources.absolute(named) == named
    if files is not None:
        assert there.files() == files and [path for _, path in files] == [f"{tmp_path}/{folder}/a[1].txt"]


def test_a_glob_is_recursive_sorted_and_named_below_its_fixed_part(tmp_path):
    for name in ("b/2.txt", "a.txt", "b/c/1.txt", "b/no.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    names = [name for name, _ in sources.parse(f"text:{tmp_path}/**/*.txt").files()]
    assert names == ["a.txt", "b/2.txt", "b/c/1.txt"]
    assert [name for name, _ in sources.parse(f"text:{tmp_path}/b/*").files()] == ["2.txt", "no.md"]
    assert [name for name, _ in sources.parse(f"text:{tmp_path}/b/2.txt").files()] == ["2.txt"]


def linked(tmp_path):
    """Files a/1.txt, a/b/2.txt and c/3.txt; links to their parent, to each other's folder, to a file, to nothing."""
    for name in ("a/1.txt", "a/b/2.txt", "c/3.txt"):
        (tmp_path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "top" / name).write_text(name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/4.txt").write_text("4")
    for link, target in {
        "a/0up": "..", "a/b/around": "../..", "0again": "a", "c/over": "../a/b", "a/0.txt": "1.txt", "y": "../out", "x": "../out"
    }.items():  # fmt: skip
        (tmp_path / "top" / link).symlink_to(target)
    os.link(tmp_path / "top/c/3.txt", tmp_path / "top/c/5.txt")
    return tmp_path / "top"


@pytest.mark.parametrize("scheme", ["text:", "text:file://"])
def test_links_put_no_file_in_twice_and_circles_end(tmp_path, scheme):
    top = linked(tmp_path)
    names = lambda pattern: [name for name, _ in sources.parse(f"{scheme}{top}/{pattern}").files()]  # noqa: E731
    # Under its own name where it has one, else under the first link's.
    assert names("**/*.txt") == names("**") == ["a/1.txt", "a/b/2.txt", "c/3.txt", "x/4.txt"]
    assert names("*/*.txt") == ["a/1.txt", "c/3.txt", "x/4.txt"]
    assert names("**/b/**/*.txt") == ["a/b/2.txt", "a/b/around/a/1.txt", "a/b/around/c/3.txt", "a/b/around/x/4.txt"]
    assert names("c/over/*.txt") == ["2.txt"]
    assert names("*/**/2.txt") == ["a/b/2.txt"]
    assert names("a/*.txt") == ["1.txt"] and names("a/0.txt") == ["0.txt"]


def test_a_file_may_be_named_like_a_pattern(tmp_path):
    (tmp_path / "a[1].txt").write_text("x")
    assert [name for name, _ in sources.parse(f"text:{tmp_path}/a[1].txt").files()] == ["a[1].txt"]


def test_home_and_the_working_directory_are_understood(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("x")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert sources.parse("text:~/a.txt").identity == sources.parse("text:a.txt").identity


def test_no_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no file matches .*/nothing\*"):
        sources.parse(f"text:{tmp_path}/nothing*").files()
    with pytest.raises(UserError, match=r"is a folder; name the files in it"):
        sources.parse(f"text:{tmp_path}").files()


def test_documents_of_several_files_keep_their_order(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "1"}\n{"body": "2"}\n')
    (tmp_path / "b.jsonl").write_text('{"body": "3"}\n')
    source = sources.parse(f"jsonl:{tmp_path}/*.jsonl#body")
    found = list(source.documents(source.files(), BadRecords("error")))
    assert found == [("a.jsonl#1", b"1"), ("a.jsonl#2", b"2"), ("b.jsonl#1", b"3")]


def test_a_file_that_vanishes_after_the_glob_is_named_or_skipped(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name)
    source = sources.parse(f"text:{tmp_path}/*")
    files = source.files()
    (tmp_path / "a").unlink()
    with pytest.raises(UserError, match=r"/a: the file vanished"):
        list(source.documents(files, BadRecords("error")))
    bad = BadRecords("skip")
    assert list(source.documents(files, bad)) == [("b", b"b")] and bad.count == 1


def as_pipe(path):
    os.mkfifo(path)


def as_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def as_link_to_a_device(path):
    path.symlink_to("/dev/zero")


KINDS = {"a named pipe": as_pipe, "a socket": as_socket, "a device": as_link_to_a_device}


@pytest.mark.parametrize("what", KINDS)
@pytest.mark.parametrize(
    "spec",
    ["text:{}/*", "text:{}/b", "text:file://{}/*", "jsonl:{}/b", "jsonl:file://{}/b#t", "parquet:{}/*", "array_record:{}/**", "hf:{}", "hf:{}/saved"],
)
def test_what_is_no_regular_file_is_named_before_it_is_opened(tmp_path, monkeypatch, spec, what):
    monkeypatch.chdir(tmp_path)  # a socket's name is short
    (tmp_path / "a").write_text("text")
    KINDS[what](Path("b"))
    if spec.startswith("hf:"):
        (tmp_path / "saved").mkdir()
        Path("b").rename("train-00000-of-00001.parquet" if spec == "hf:{}" else "saved/data.arrow")
        if spec != "hf:{}":
            (tmp_path / "saved/state.json").write_text('{"_data_files": [{"filename": "data.arrow"}]}')
    with pytest.raises(UserError, match=rf"{tmp_path}/.* is {what}, and only regular files are read: leave it out"):
        open_stream(spec.format(tmp_path), "all", str(tmp_path / "cache"), "skip")


def test_a_device_by_its_own_name_is_none(tmp_path):
    with pytest.raises(UserError, match="text:/dev/zero: /dev/zero is a device, and only regular files are read"):
        open_stream("text:/dev/zero", "all", str(tmp_path))
