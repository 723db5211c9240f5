import functools
import json
import os
import zlib
from pathlib import Path

import pytest

from scratchpatch.checkpoints import durable, format
from scratchpatch.checkpoints.format import Damaged

ABOUT = {
    "config": {"seed": 1},
    "step": 3,
    "version": "é",
    "metrics": {"validation_bpb": 2.5, "bpb": None, "verdict": "INVALID"},
    "arrays": {"params.w": {"shape": [2, 3], "dtype": "bfloat16"}},
}


@pytest.fixture
def step(tmp_path):
    tmp_path = tmp_path / "3"
    for name, data in (("a/x", b"0123456789"), ("a/b/y", b""), ("c/z", bytes(3_000_000)), ("top", b"t")):
        path = tmp_path / "state" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    format.write_about(tmp_path, ABOUT | {"files": format.checksums(tmp_path, lambda name: True)})
    return tmp_path


def test_what_was_written_is_read_with_the_files(step):
    about = format.read_about(step)
    assert {name: about[name] for name in ABOUT} == ABOUT
    assert about["files"]["a/x"] == [10, 0xA684C7C6] and about["files"]["a/b/y"] == [0, 0]
    assert list(about["files"]) == ["a/b/y", "a/x", "c/z", "top"]
    format.check_files(step, about)


@pytest.mark.parametrize(
    "name, data, reason",
    [
        ("c/z", bytes(2_999_999) + b"\1", "the checksum of state/c/z is wrong"),
        ("a/x", b"01234", "state/a/x holds 5 bytes instead of 10"),
        ("a/b/y", b"0", "state/a/b/y holds 1 bytes instead of 0"),
        ("top", None, "state/top cannot be read: No such file or directory"),
    ],
)
def test_a_changed_file_is_named_unless_it_is_not_asked_for(step, name, data, reason):
    about = format.read_about(step)
    path = step / "state" / name
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(Damaged, match=reason):
        format.check_files(step, about)
    format.check_files(step, about, skipped={name.split("/")[0]})


def test_no_changed_byte_of_the_description_passes(step):
    path = step / "about.json"
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(Damaged, match="about.json"):
            format.read_about(step)
    for text in ("", "[]", "{}", "3", '{"about": 3}'):
        path.write_text(text)
        with pytest.raises(Damaged, match="about.json"):
            format.read_about(step)


def test_only_files_that_are_chosen_are_read(step):
    (step / "state" / "a" / "x").chmod(0)
    os.mkfifo(step / "state" / "pipe")
    of_c = format.checksums(step, lambda name: name.startswith("c/"))
    assert of_c == {"c/z": format.read_about(step)["files"]["c/z"]}


def test_the_parts_of_a_step(step):
    names = ["about.json", "state/a/b/y", "state/a/x", "state/c/z", "state/top"]
    assert [os.path.relpath(path, step) for path in format.file_paths(step)] == names


def seal(step, about):
    """Write about.json as if it had been written so."""
    text = json.dumps(about, sort_keys=True)
    (step / "about.json").write_text(
        json.dumps({"about": about, "checksum": zlib.crc32(text.encode())}, sort_keys=True)
    )


@pytest.mark.parametrize(
    "change, reason",
    [
        *(
            ({name: None}, f"about.{name}: Expected ")
            for name in ("config", "step", "version", "metrics", "arrays", "files")
        ),
        ({"step": -1}, "about.step: "),
        ({"step": 3.5}, "about.step: "),
        ({"step": 10**30}, "about.step: "),
        ({"step": 4}, "it holds step 4, which is not its folder's name"),
        ({"metrics": {"validation_bpb": "low"}}, "about.metrics.validation_bpb: Expected "),
        ({"metrics": {"validation_bpb": 10**400}}, "about.metrics.validation_bpb: "),
        ({"metrics": {"validation_bytes": -1}}, "about.metrics.validation_bytes: Expected "),
        ({"arrays": {"w": {"shape": [-1], "dtype": "float32"}}}, r"about.arrays\[...\].shape\[0\]: Expected "),
        ({"arrays": {"w": {"shape": [1]}}}, r"about.arrays\[...\]: .*missing required field dtype"),
        ({"arrays": {"w": {"shape": 3, "dtype": "float32"}}}, r"about.arrays\[...\].shape: Expected "),
        ({"arrays": {"w": {"shape": [1], "dtype": "float31"}}}, "w has dtype 'float31', which does not exist"),
        ({"arrays": {"w": {"shape": [1], "dtype": "object"}}}, "w has dtype 'object'"),
        ({"arrays": {"w": {"shape": [1], "dtype": "i4,f4"}}}, "w has dtype 'i4,f4'"),
        ({"files": {"a/x": [10]}}, r"about.files\[...\]: Expected "),
        ({"files": {"a/x": [-1, 0]}}, r"about.files\[...\]\[0\]: Expected "),
        ({"files": {"a/x": "10"}}, r"about.files\[...\]: Expected "),
        ({"config": {"x": functools.reduce(lambda inner, _: [inner], range(40), 1)}}, "it is nested more than"),
    ],
)
def test_a_valid_seal_over_what_is_no_description(step, change, reason):
    seal(step, format.read_about(step) | change)
    with pytest.raises(Damaged, match=f"^(about.json cannot be read: |about.json: about.arrays: )?{reason}"):
        format.read_about(step)


@pytest.mark.parametrize(
    "text",
    ['{"about": ' * 5000, '{"about": ' + "[" * 5000 + "]" * 5000 + "}", '{"about": {"step": ' + "9" * 5000 + "}}"],
)
def test_depth_and_numbers_that_nobody_writes(step, text):
    (step / "about.json").write_text(text)
    with pytest.raises(Damaged, match="about.json cannot be read: it is n"):
        format.read_about(step)


@pytest.mark.parametrize("missing", ABOUT)
def test_a_valid_seal_over_a_description_that_lacks_something(step, missing):
    about = format.read_about(step)
    del about[missing]
    seal(step, about)
    with pytest.raises(Damaged, match=f"about: .*missing required field {missing}"):
        format.read_about(step)


def outside(step) -> Path:
    """A file beside the step that nothing may touch."""
    path = step.parent / "outside"
    path.write_bytes(b"mine")
    return path


@pytest.mark.parametrize("name", ["../../outside", "{}", "a/../../../outside", "", "a//x", "a/./x", "a\0", ".."])
def test_names_that_lead_out_of_the_step_are_not_followed(step, name, tmp_path):
    path = outside(step)
    name = name.format(path)
    about = format.read_about(step)
    seal(step, about | {"files": {"a/x": about["files"]["a/x"], name: [0, 0]}})
    for use in (
        lambda: format.check_files(step, format.read_about(step)),
        lambda: durable.copy(step, tmp_path / "new" / "3", lambda _: None),
        lambda: list(format.file_paths(step)),
    ):
        with pytest.raises(Damaged, match="no plain relative path below"):
            use()
    assert path.read_bytes() == b"mine"
    assert {p.name for p in tmp_path.iterdir()} <= {"3", "new", "outside"}


@pytest.mark.parametrize("part", ["state", "state/a", "state/a/x", "about.json"])
def test_links_inside_a_step_are_not_followed(step, part, tmp_path):
    (step / part).rename(tmp_path / "moved")
    (step / part).symlink_to(tmp_path / "moved")
    with pytest.raises(Damaged, match="leads through the link"):
        format.check_files(step, format.read_about(step))
    with pytest.raises(Damaged, match="leads through the link"):
        durable.copy(step, tmp_path / "new" / "3", lambda _: None)


def test_a_link_to_a_whole_step_is_followed(step, tmp_path):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "3").symlink_to(step)
    format.check_files(tmp_path / "links" / "3", format.read_about(tmp_path / "links" / "3"))


@pytest.mark.parametrize("part", ["state/a/x", "about.json"])
def test_what_is_no_file_is_damage_and_not_waited_for(step, part, tmp_path):
    (step / part).unlink()
    os.mkfifo(step / part)
    for use in (
        lambda: format.check_files(step, format.read_about(step)),
        lambda: durable.copy(step, tmp_path / "new" / "3", lambda _: None),
    ):
        with pytest.raises(Damaged, match=f"{part} cannot be read: it is a named pipe"):
            use()


def test_the_names_of_steps():
    names = ["8", "0", "0008", "00", "٨", "²", "-8", "+8", " 8", "8_0", "8.0", "", "notes", "8.partial"]
    assert [format.step_number(name) for name in names] == [8, 0] + [None] * 12
