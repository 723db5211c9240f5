"""The files of a source: each real file once, in a fixed order, and only regular ones."""

import os
import socket
from pathlib import Path

import pytest

from scratchpatch.data import sources
from scratchpatch.data.index import open_stream
from scratchpatch.data.records import BadRecords
from scratchpatch.errors import UserError


def names(spec):
    return [name for name, _ in sources.parse(spec).files()]


def test_a_glob_is_recursive_sorted_and_named_below_its_fixed_part(tmp_path):
    for name in ("b/2.txt", "a.txt", "b/c/1.txt", "b/no.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    assert names(f"text:{tmp_path}/**/*.txt") == ["a.txt", "b/2.txt", "b/c/1.txt"]
    assert names(f"text:{tmp_path}/b/*") == ["2.txt", "no.md"]
    assert names(f"text:{tmp_path}/b/2.txt") == ["2.txt"]


def linked(tmp_path):
    """Files a/1.txt, a/b/2.txt and c/3.txt; links to their parent, to each other's folder, to a file, to nothing."""
    for name in ("a/1.txt", "a/b/2.txt", "c/3.txt"):
        (tmp_path / "top" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "top" / name).write_text(name)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/4.txt").write_text("4")
    links = {"a/0up": "..", "a/b/around": "../..", "0again": "a", "c/over": "../a/b", "a/0.txt": "1.txt"}
    for link, target in (links | {"y": "../out", "x": "../out"}).items():
        (tmp_path / "top" / link).symlink_to(target)
    os.link(tmp_path / "top/c/3.txt", tmp_path / "top/c/5.txt")
    return tmp_path / "top"


@pytest.mark.parametrize("scheme", ["text:", "text:file://"])
def test_links_put_no_file_in_twice_and_circles_end(tmp_path, scheme):
    top = scheme + str(linked(tmp_path))
    # Under its own name where it has one, else under the first link's.
    assert names(f"{top}/**/*.txt") == names(f"{top}/**") == ["a/1.txt", "a/b/2.txt", "c/3.txt", "x/4.txt"]
    assert names(f"{top}/*/*.txt") == ["a/1.txt", "c/3.txt", "x/4.txt"]
    around = ["a/b/around/a/1.txt", "a/b/around/c/3.txt", "a/b/around/x/4.txt"]
    assert names(f"{top}/**/b/**/*.txt") == ["a/b/2.txt", *around]
    assert names(f"{top}/c/over/*.txt") == ["2.txt"]
    assert names(f"{top}/*/**/2.txt") == ["a/b/2.txt"]
    assert names(f"{top}/a/*.txt") == ["1.txt"] and names(f"{top}/a/0.txt") == ["0.txt"]


def test_a_file_may_be_named_like_a_pattern(tmp_path):
    (tmp_path / "a[1].txt").write_text("x")
    assert names(f"text:{tmp_path}/a[1].txt") == ["a[1].txt"]


def test_no_file_is_an_error(tmp_path):
    with pytest.raises(UserError, match=r"no file matches .*/nothing\*"):
        sources.parse(f"text:{tmp_path}/nothing*").files()
    with pytest.raises(UserError, match=r"is a folder; name the files in it"):
        sources.parse(f"text:{tmp_path}").files()


def test_documents_of_several_files_keep_their_order(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"body": "1"}\n{"body": "2"}\n')
    (tmp_path / "b.jsonl").write_text('{"body": "3"}\n')
    source = sources.parse(f"jsonl:{tmp_path}/*.jsonl#body")
    documents = list(source.documents(source.files(), BadRecords("error")))
    assert documents == [("a.jsonl#1", b"1"), ("a.jsonl#2", b"2"), ("b.jsonl#1", b"3")]


def test_a_file_that_vanishes_after_the_glob_is_named_or_skipped(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text('{"text": "x"}')
    for scheme, wanted in (("text", ("b", b'{"text": "x"}')), ("jsonl", ("b#1", b"x"))):
        (tmp_path / "a").touch()
        source = sources.parse(f"{scheme}:{tmp_path}/*")
        files = source.files()
        (tmp_path / "a").unlink()
        with pytest.raises(UserError, match=r"/a(:1)?: the file vanished"):
            list(source.documents(files, BadRecords("error")))
        bad = BadRecords("skip")
        assert list(source.documents(files, bad)) == [wanted] and bad.count == 1


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
    [
        "text:{}/*",
        "text:{}/b",
        "text:file://{}/*",
        "jsonl:{}/b",
        "jsonl:file://{}/b#t",
        "parquet:{}/*",
        "array_record:{}/**",
        "hf:{}",
        "hf:{}/saved",
    ],
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
