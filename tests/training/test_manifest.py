import pytest

from scratchpatch.training import manifest
from scratchpatch.training.manifest import Damaged


@pytest.fixture
def step(tmp_path):
    for name, data in (("a/x", b"0123456789"), ("a/b/y", b""), ("c/z", bytes(3_000_000)), ("top", b"t")):
        path = tmp_path / "state" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    manifest.write(tmp_path, {"step": 3, "note": "é"})
    return tmp_path


def test_what_was_written_is_read_with_the_files(step):
    about = manifest.read(step)
    assert about["step"] == 3 and about["note"] == "é"
    assert about["files"]["a/x"] == [10, 0xA684C7C6] and about["files"]["a/b/y"] == [0, 0]
    assert list(about["files"]) == ["a/b/y", "a/x", "c/z", "top"]
    manifest.check(step, about, skipped=())


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
    about = manifest.read(step)
    path = step / "state" / name
    path.unlink()
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(Damaged, match=reason):
        manifest.check(step, about, skipped=())
    manifest.check(step, about, skipped={name.split("/")[0]})


def test_no_changed_byte_of_the_description_passes(step):
    path = step / "about.json"
    whole = path.read_bytes()
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(Damaged, match="about.json"):
            manifest.read(step)
    for text in ("", "[]", "{}", "3", '{"about": 3}'):
        path.write_text(text)
        with pytest.raises(Damaged, match="about.json"):
            manifest.read(step)


def test_files_that_others_describe_are_not_read(step):
    """Whatever nobody described is."""
    known = manifest.files(step, lambda name: name.startswith("c/"))
    assert known == {"c/z": manifest.read(step)["files"]["c/z"]}
    (step / "state" / "c" / "z").unlink()
    before = manifest.read(step)
    manifest.write(step, {"step": 3, "note": "é"}, known)
    assert manifest.read(step) == before


def test_the_parts_of_a_step(step):
    names = ["about.json", "state/a/b/y", "state/a/x", "state/c/z", "state/top"]
    assert [str(path.relative_to(step)) for path in manifest.parts(step)] == names
