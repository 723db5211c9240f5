import gzip
import hashlib
import json
import os
import shutil

import numpy as np
import pytest

from scratchpatch import json_files
from scratchpatch.data import build, records, sources
from scratchpatch.data.index import open_stream
from scratchpatch.errors import UserError


def run(place, spec, layout="whole", mode="error"):
    source = sources.parse(spec)
    build.build(place, source, layout, source.files(), mode, share=0.2)
    return build.intact_meta(place)


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


def flip(path):
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


def reseal(place, **changes):
    """A meta that has other values, and the checksum of those."""
    meta = json.loads((place / build.META).read_text())["meta"] | changes
    (place / build.META).write_text(json.dumps({"meta": meta, "checksum": json_files.seal(meta)}))


def as_link(place):
    shutil.rmtree(place)
    place.symlink_to(place.parent / "nowhere")


def as_file(place):
    shutil.rmtree(place)
    place.write_text("")


def as_pipe(path):
    path.unlink()
    os.mkfifo(path)


def all_part(**changes):
    return {"all": {"position": 0, "positions": 6, "document": 0, "documents": 2} | changes}


DAMAGE = {
    "cut": lambda place: (place / build.STREAM).write_bytes(b"\0a"),
    "no meta": lambda place: (place / build.META).unlink(),
    "no starts": lambda place: (place / build.STARTS).unlink(),
    "half a meta": lambda place: (place / build.META).write_text((place / build.META).read_text()[:40]),
    "a byte of the stream": lambda place: flip(place / build.STREAM),
    "a byte of the starts": lambda place: flip(place / build.STARTS),
    "a byte of the meta": lambda place: (place / build.META).write_text((place / build.META).read_text().replace('"documents": 2', '"documents": 3')),
    "zeroed starts": lambda place: (place / build.STARTS).write_bytes(bytes((place / build.STARTS).stat().st_size)),
    "starts of another type": lambda place: np.save(place / build.STARTS, np.zeros(2)),
    "starts of objects": lambda place: np.save(place / build.STARTS, np.array([None, 1], object)),
    "null": lambda place: (place / build.META).write_text("null"),
    "a list": lambda place: (place / build.META).write_text("[]"),
    "deep": lambda place: (place / build.META).write_text("[" * 5000 + "]" * 5000),
    "no UTF-8": lambda place: (place / build.META).write_bytes(b'{"meta": "\xff"}'),
    "retyped": lambda place: reseal(place, parts=3),
    "sizes without the stream": lambda place: reseal(place, sizes={}),
    "negative": lambda place: reseal(place, parts=all_part(position=-1)),
    "beyond the stream": lambda place: reseal(place, parts=all_part(positions=7)),
    "more documents": lambda place: reseal(place, parts=all_part(documents=3)),
    "no parts": lambda place: reseal(place, parts={}),
    "no digests": lambda place: reseal(place, digests={}),
    "a dangling link": as_link,
    "a file": as_file,
    "the meta is a pipe": lambda place: as_pipe(place / build.META),
    "the stream is a pipe": lambda place: as_pipe(place / build.STREAM),
    "unreadable": lambda place: place.chmod(0),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_index_is_not_intact_and_is_replaced(tmp_path, write_texts, damage):
    spec, place = write_texts([b"abc", b"b"]), tmp_path / "cache" / "index"
    meta = run(place, spec)
    DAMAGE[damage](place)
    assert build.intact_meta(place) is None or os.geteuid() == 0 and damage == "unreadable"
    assert run(place, spec) == meta
    assert [p.name for p in place.parent.iterdir()] == ["index"]


def test_a_missing_index_is_not_intact(tmp_path):
    assert build.intact_meta(tmp_path / "none") is None


def test_a_source_without_bytes_is_an_error(tmp_path, write_texts, write_lines):
    with pytest.raises(UserError, match=r"the source is empty, its 2 file\(s\) hold no bytes"):
        run(tmp_path / "index", write_texts([b"", b""]))
    spec, path = write_lines([b"?", b"!"])
    with pytest.raises(UserError, match=rf"empty.*2 bad record\(s\) skipped, first: {path}:1"):
        run(tmp_path / "index", spec, mode="skip")


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, write_texts, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    spec, cache = write_texts([b"abc"]), tmp_path / "cache"
    for name in ("_copy", "_write_starts", "_sync", "_spill"):
        with monkeypatch.context() as patch:
            patch.setattr(build, name, fail)
            with pytest.raises(UserError, match=rf"cannot keep the stream index in {cache}/index \(.*No space left.*set data.cache_dir"):
                open_stream(spec, "all", str(cache))
        assert list((cache / "index").iterdir()) == []


def test_a_long_document_is_kept_piece_by_piece(tmp_path, monkeypatch):
    """Cut or whole, packed or plain: the same index; and one that breaks off leaves the others."""
    text = np.random.default_rng(0).bytes(50_000)
    for name, data in (("plain", text), ("packed", gzip.compress(text))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0").write_bytes(data)
    wanted = {layout: run(tmp_path / "i" / layout, f"text:{tmp_path}/plain/*", layout) for layout in ("whole", "split")}
    monkeypatch.setattr(records, "_FIRST", 1000)
    monkeypatch.setattr(records, "_PIECE", 1000)
    monkeypatch.setattr(build, "_COPY_BYTES", 777)
    for name in ("plain", "packed"):
        for layout in ("whole", "split"):
            meta = run(tmp_path / name / layout / "index", f"text:{tmp_path}/{name}/0", layout)
            same = ("checksum", "digests", "parts", "sizes", "documents")
            assert {key: meta[key] for key in same} == {key: wanted[layout][key] for key in same}
    (tmp_path / "packed/1").write_bytes(gzip.compress(text)[:-20])
    (tmp_path / "packed/2").write_bytes(b"after")
    with pytest.raises(UserError, match="packed/1: not a whole compressed file"):
        run(tmp_path / "bad", f"text:{tmp_path}/packed/[012]")
    meta = run(tmp_path / "bad", f"text:{tmp_path}/packed/[012]", mode="skip")
    assert (tmp_path / "bad" / build.STREAM).read_bytes() == b"\0" + text + b"\0after" and meta["skipped"] == 1


def test_a_long_build_says_how_far_it_is(tmp_path, write_texts, monkeypatch):
    lines = []
    monkeypatch.setattr(build, "SECONDS_BETWEEN_LINES", 0)
    monkeypatch.setattr(build.logging, "info", lambda text, *values: lines.append(text % values))
    spec = write_texts([b"a" * 600_000, b"b" * 600_000])
    run(tmp_path / "index", spec)
    assert f"indexing {spec}: 2 documents, 1 MB so far" in lines
    assert lines[-1] == f"indexed {spec}: 2 documents, 1200000 bytes"
