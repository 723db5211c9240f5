"""Paths of this machine and URLs answer alike."""

import json
import os

import fsspec
import pytest

from scratchpatch import json_files
from scratchpatch.data import paths
from scratchpatch.errors import UserError


@pytest.fixture(params=["here", "memory"])
def folder(request, tmp_path):
    """An empty folder: of this machine (with a name that fsspec would take for a chain of file systems), or a URL."""
    if request.param == "here":
        yield f"{tmp_path}/a::b"
        return
    yield "memory://paths"
    files = fsspec.filesystem("memory")
    if files.exists("/paths"):
        files.rm("/paths", recursive=True)


def test_what_is_written_is_there_until_it_is_removed(folder):
    paths.make_folder(folder)
    path = paths.join(folder, "a.json")
    assert not paths.is_file(path)
    paths.write_text(path, '{"a": 1}')
    assert paths.is_file(path) and paths.is_folder(folder) and not paths.is_folder(path)
    assert paths.size(path) == 8 and paths.sizes(folder) == {"a.json": 8}
    with paths.open_read(path) as file:
        assert file.read() == b'{"a": 1}'
    assert paths.read_json(path, dict[str, int]) == {"a": 1}
    paths.remove(folder)
    paths.remove(folder)
    assert not paths.is_file(path) and not paths.is_folder(folder)


WRONG = [("{", "it is no JSON"), ('{"a": "b"}', "Expected int"), ("1" * 99, "larger than")]


@pytest.mark.parametrize("text, says", WRONG)
def test_json_of_another_shape_or_too_large_is_named(folder, monkeypatch, text, says):
    monkeypatch.setattr(json_files, "_MOST_BYTES", 98)
    paths.make_folder(folder)
    path = paths.join(folder, "a.json")
    paths.write_text(path, text)
    with pytest.raises(json_files.Malformed, match=f"{path}: .*{says}"):
        paths.read_json(path, dict[str, int])


def test_sizes_are_those_of_files_also_behind_links(tmp_path):
    (tmp_path / "folder/below").mkdir(parents=True)
    (tmp_path / "file").write_text("12345")
    (tmp_path / "folder/link").symlink_to("../file")
    (tmp_path / "folder/own").write_text("1")
    assert paths.sizes(f"{tmp_path}/folder") == {"link": 5, "own": 1}
    with pytest.raises(FileNotFoundError):
        paths.sizes(f"{tmp_path}/none")
    assert paths.sizes("memory://none") == {}  # a bucket has no empty folders


def test_a_name_that_a_file_holds_stays_below_its_folder(folder):
    paths.make_folder(folder)
    assert paths.below(folder, "a/b") == paths.join(folder, "a", "b")
    for name in ("../a", "/etc/passwd", "a//b", "", "a\0b", 3):
        with pytest.raises(ValueError, match="is no plain relative path below"):
            paths.below(folder, name)


def test_a_finished_file_is_published_whole(folder, tmp_path):
    paths.make_folder(folder)
    (tmp_path / "finished").write_text("text")
    paths.publish(f"{tmp_path}/finished", paths.join(folder, "name"))
    assert paths.sizes(folder) == {"name": 4} and not (tmp_path / "finished").exists()


def test_a_copy_is_made_once_and_what_killed_processes_began_is_removed(tmp_path):
    files = fsspec.filesystem("memory")
    files.pipe_file("/paths/name", b"text")
    (tmp_path / "name.1.tmp").write_text("te")
    (tmp_path / "name.2.tmp").write_text("te")
    os.utime(tmp_path / "name.1.tmp", (0, 0))
    try:
        assert paths.fetched("memory://paths/name", tmp_path) == f"{tmp_path}/name"
    finally:
        files.rm("/paths", recursive=True)
    assert paths.fetched("memory://paths/name", tmp_path) == f"{tmp_path}/name"
    assert sorted(os.listdir(tmp_path)) == ["name", "name.2.tmp"] and (tmp_path / "name").read_text() == "text"
    assert paths.fetched(f"{tmp_path}/name", tmp_path / "elsewhere") == f"{tmp_path}/name"


def test_the_state_of_a_file_changes_with_it_and_is_json(folder):
    paths.make_folder(folder)
    path = paths.join(folder, "a")
    paths.write_text(path, "1")
    before = paths.state(path)
    assert paths.state(path) == before == json.loads(json.dumps(before))
    paths.write_text(path, "22")
    assert paths.state(path) != before


def test_a_url_of_an_unknown_kind_is_named():
    with pytest.raises(UserError, match="nothing://a: Protocol not known"):
        paths.is_file("nothing://a")
