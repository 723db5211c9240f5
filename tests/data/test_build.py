import hashlib
import json

import numpy as np
import pytest

from scratchpatch.data import build, sources
from scratchpatch.errors import UserError


def run(place, spec, layout="whole", mode="error"):
    source = sources.parse(spec)
    build.build(place, source, layout, source.files(), mode, share=0.2)
    return build.intact(place)


def test_whole_keeps_the_order_of_the_source(tmp_path, write_texts, awkward):
    place = tmp_path / "index"
    meta = run(place, write_texts(awkward))
    assert (place / build.STREAM).read_bytes() == b"".join(b"\0" + d for d in awkward)
    lengths = [len(d) + 1 for d in awkward]
    assert np.load(place / build.STARTS).tolist() == [sum(lengths[:i]) for i in range(len(awkward))]
    assert meta["parts"] == {
        "all": {"position": 0, "positions": sum(lengths), "document": 0, "documents": len(awkward)}
    }
    assert meta["checksum"] == hashlib.blake2b((place / build.STREAM).read_bytes(), digest_size=16).hexdigest()


def test_the_checksum_knows_where_a_part_ends(tmp_path, write_texts, monkeypatch):
    """Documents in one order may be dealt otherwise, as older versions did by their names."""
    spec, found = write_texts([b"a", b"b", b"c", b"d"]), set()
    for parts in ([0, 0, 1, 2], [0, 1, 1, 2], [0, 1, 2, 2]):
        monkeypatch.setattr(build.splits, "assign", lambda *_, parts=parts: np.array(parts, np.int8))
        found.add(run(tmp_path / str(parts), spec, "split")["checksum"])
    assert len(found) == 3


def test_split_parts_lie_one_after_the_other(tmp_path, write_texts):
    documents = [bytes([i]) * (i + 1) for i in range(40)]
    meta = run(tmp_path / "index", write_texts(documents), "split")
    parts = [meta["parts"][name] for name in ("train", "validation", "test")]
    assert [p["position"] for p in parts] == [0, parts[0]["positions"], parts[0]["positions"] + parts[1]["positions"]]
    assert sum(p["documents"] for p in parts) == 40 and all(p["documents"] for p in parts)
    stream = (tmp_path / "index" / build.STREAM).read_bytes()
    starts = np.load(tmp_path / "index" / build.STARTS)
    found = []
    for part in parts:
        own = starts[part["document"] : part["document"] + part["documents"]]
        ends = [*own[1:], part["positions"]]
        found += [stream[part["position"] + a + 1 : part["position"] + b] for a, b in zip(own, ends, strict=True)]
    assert sorted(found) == sorted(documents)


def test_it_leaves_nothing_beside_the_index(tmp_path, write_texts):
    place = tmp_path / "cache" / "index"
    run(place, write_texts([b"a", b"b"]))
    assert [p.name for p in place.parent.iterdir()] == ["index"]
    assert sorted(p.name for p in place.iterdir()) == sorted([build.META, build.STARTS, build.STREAM, build.RIGHT, build.SEEN])


def test_a_failed_build_leaves_nothing(tmp_path, write_lines):
    spec, _ = write_lines([{"text": "a"}, b"?"])
    place = tmp_path / "cache" / "index"
    with pytest.raises(UserError):
        run(place, spec)
    assert list(place.parent.iterdir()) == []


def test_an_intact_index_of_another_process_is_kept(tmp_path, write_texts):
    spec, place = write_texts([b"a", b"b"]), tmp_path / "cache" / "index"
    run(place, spec)
    before = (place / build.STREAM).stat().st_ino
    run(place, spec)
    assert (place / build.STREAM).stat().st_ino == before
    assert [p.name for p in place.parent.iterdir()] == ["index"]


@pytest.mark.parametrize("damage", ["cut", "no meta", "half a meta", "no starts"])
def test_a_damaged_index_is_not_intact_and_is_replaced(tmp_path, write_texts, damage):
    spec, place = write_texts([b"abc", b"b"]), tmp_path / "cache" / "index"
    meta = run(place, spec)
    if damage == "cut":
        (place / build.STREAM).write_bytes(b"\0a")
    elif damage == "half a meta":
        (place / build.META).write_text(json.dumps(meta)[:40])
    else:
        (place / (build.META if damage == "no meta" else build.STARTS)).unlink()
    assert build.intact(place) is None
    assert run(place, spec) == meta
    assert [p.name for p in place.parent.iterdir()] == ["index"]


def test_a_missing_index_is_not_intact(tmp_path):
    assert build.intact(tmp_path / "none") is None


def test_a_source_without_bytes_is_an_error(tmp_path, write_texts, write_lines):
    with pytest.raises(UserError, match=r"the source is empty, its 2 file\(s\) hold no bytes"):
        run(tmp_path / "index", write_texts([b"", b""]))
    spec, path = write_lines([b"?", b"!"])
    with pytest.raises(UserError, match=rf"empty.*2 bad record\(s\) skipped, first: {path}:1"):
        run(tmp_path / "index", spec, mode="skip")


def test_a_long_build_says_how_far_it_is(tmp_path, write_texts, monkeypatch):
    lines = []
    monkeypatch.setattr(build, "SECONDS_BETWEEN_LINES", 0)
    monkeypatch.setattr(build.logging, "info", lambda text, *values: lines.append(text % values))
    spec = write_texts([b"a" * 600_000, b"b" * 600_000])
    run(tmp_path / "index", spec)
    assert f"indexing {spec}: 2 documents, 1 MB so far" in lines
    assert lines[-1] == f"indexed {spec}: 2 documents, 1200000 bytes"
