"""What an index is on disk, and that a damaged one is built anew."""

import gzip
import hashlib
import json
import os
import shutil

import numpy as np
import pytest

from scratchpatch.data import build, shards, sources
from scratchpatch.data.index import open_stream
from scratchpatch.data.sources import text as text_source
from scratchpatch.errors import UserError


def intact_meta(place):
    index = build.open_index(place)
    return index and index[0]


def run(place, spec, layout="whole", mode="error"):
    source = sources.parse(spec)
    build.build(place, source, layout, source.files(), mode, share=0.2)
    return intact_meta(place)


def test_whole_keeps_the_order_of_the_source(tmp_path, write_texts, awkward):
    place = tmp_path / "index"
    meta = run(place, write_texts(awkward))
    assert (place / "all.bin").read_bytes() == b"".join(b"\0" + d for d in awkward)
    lengths = [len(d) + 1 for d in awkward]
    starts = np.array([sum(lengths[:i]) for i in range(len(awkward))])
    assert (place / "all.starts").read_bytes() == shards.pack_starts(starts, sum(lengths))
    assert (meta["splits"]["all"]["documents"], meta["splits"]["all"]["bytes"]) == (len(awkward), sum(map(len, awkward)))
    assert meta["checksum"] == hashlib.blake2b((place / "all.bin").read_bytes(), digest_size=16).hexdigest()


def test_the_checksum_knows_where_a_split_ends(tmp_path, write_texts, monkeypatch):
    """Documents in one order may be dealt otherwise, as older versions did by their names."""
    spec, checksums = write_texts([b"a", b"b", b"c", b"d"]), set()
    for dealt in ([0, 0, 1, 2], [0, 1, 1, 2], [0, 1, 2, 2]):
        names = iter(build.splits.SPLITS[split] for split in dealt)
        monkeypatch.setattr(build.splits, "split_at", lambda *_, names=names: next(names))
        checksums.add(run(tmp_path / str(dealt), spec, "split")["checksum"])
    assert len(checksums) == 3


def test_each_split_is_a_shard(tmp_path, write_texts):
    documents = [bytes([i]) * (i + 1) for i in range(40)]
    meta = run(tmp_path / "index", write_texts(documents), "split")
    assert tuple(meta["splits"]) == build.splits.SPLITS
    in_splits = {name: list(shards.Shard(str(tmp_path / "index"), entry).documents()) for name, entry in meta["splits"].items()}
    assert all(in_splits.values()) and sorted(sum(in_splits.values(), [])) == sorted(documents)
    for name, own in in_splits.items():
        assert own == [d for d in documents if build.splits.split_of(build.splits.digest(d), 0.2) == name]


def test_it_leaves_nothing_beside_the_index(tmp_path, write_texts):
    place = tmp_path / "cache" / "index"
    run(place, write_texts([b"a", b"b"]))
    assert [p.name for p in place.parent.iterdir()] == ["index"]
    assert sorted(p.name for p in place.iterdir()) == ["all.bin", "all.starts", "meta.json", "right-all.json", "seen.json"]


def test_a_failed_build_leaves_nothing(tmp_path, write_lines):
    spec, _ = write_lines([{"text": "a"}, b"?"])
    place = tmp_path / "cache" / "index"
    with pytest.raises(UserError):
        run(place, spec)
    assert list(place.parent.iterdir()) == []


def test_an_intact_index_of_another_process_is_kept(tmp_path, write_texts):
    spec, place = write_texts([b"a", b"b"]), tmp_path / "cache" / "index"
    run(place, spec)
    before = (place / "all.bin").stat().st_ino
    run(place, spec)
    assert (place / "all.bin").stat().st_ino == before
    assert [p.name for p in place.parent.iterdir()] == ["index"]


def flip(path):
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)


def reseal(place, **changes):
    """A meta that has other values, and the seal of those."""
    meta = json.loads((place / build.META).read_text()) | changes
    (place / build.META).write_text(json.dumps(shards.sealed(meta)))


def reseal_shard(place, **changes):
    """The same, of the entry of the only shard."""
    entry = json.loads((place / build.META).read_text())["splits"]["all"]
    reseal(place, splits={"all": entry | changes})


def retext(path, before, after):
    path.write_text(path.read_text().replace(before, after))


def as_link(place):
    shutil.rmtree(place)
    place.symlink_to(place.parent / "nowhere")


def as_file(place):
    shutil.rmtree(place)
    place.write_text("")


def as_pipe(path):
    path.unlink()
    os.mkfifo(path)


DAMAGE = {
    "cut": lambda place: (place / "all.bin").write_bytes(b"\0a"),
    "no meta": lambda place: (place / build.META).unlink(),
    "no starts": lambda place: (place / "all.starts").unlink(),
    "half a meta": lambda place: (place / build.META).write_text((place / build.META).read_text()[:40]),
    "a byte of the stream": lambda place: flip(place / "all.bin"),
    "a byte of the starts": lambda place: flip(place / "all.starts"),
    "a byte of the meta": lambda place: retext(place / build.META, '"documents": 2', '"documents": 3'),
    "zeroed starts": lambda place: (place / "all.starts").write_bytes(bytes((place / "all.starts").stat().st_size)),
    "null": lambda place: (place / build.META).write_text("null"),
    "a list": lambda place: (place / build.META).write_text("[]"),
    "deep": lambda place: (place / build.META).write_text("[" * 5000 + "]" * 5000),
    "no UTF-8": lambda place: (place / build.META).write_bytes(b'{"meta": "\xff"}'),
    "retyped": lambda place: reseal(place, splits=3),
    "negative": lambda place: reseal_shard(place, documents=-1),
    "beyond the stream": lambda place: reseal_shard(place, bytes=5),
    "more documents": lambda place: reseal_shard(place, documents=3, bytes=3),
    "no splits": lambda place: reseal(place, splits={}),
    "no checksums": lambda place: reseal_shard(place, checksums={}),
    "another folder's": lambda place: reseal_shard(place, name="../all"),
    "a dangling link": as_link,
    "a file": as_file,
    "the meta is a pipe": lambda place: as_pipe(place / build.META),
    "the stream is a pipe": lambda place: as_pipe(place / "all.bin"),
    "unreadable": lambda place: place.chmod(0),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_index_is_not_intact_and_is_replaced(tmp_path, write_texts, damage):
    spec, place = write_texts([b"abc", b"b"]), tmp_path / "cache" / "index"
    meta = run(place, spec)
    DAMAGE[damage](place)
    assert intact_meta(place) is None or os.geteuid() == 0 and damage == "unreadable"
    assert run(place, spec) == meta
    assert [p.name for p in place.parent.iterdir()] == ["index"]


def test_a_missing_index_is_not_intact(tmp_path):
    assert intact_meta(tmp_path / "none") is None


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
    for owner, name in ((build, "_spill"), (build, "sync"), (build.Writer, "write"), (build.Writer, "finish")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
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
    monkeypatch.setattr(text_source, "_FIRST_PIECE", 1000)
    monkeypatch.setattr(text_source, "_PIECE", 1000)
    monkeypatch.setattr(build, "_COPY_BYTES", 777)
    monkeypatch.setattr(build, "_SPILL_BYTES", 3000)
    for name in ("plain", "packed"):
        for layout in ("whole", "split"):
            meta = run(tmp_path / name / layout / "index", f"text:{tmp_path}/{name}/0", layout)
            same = ("checksum", "splits", "documents")
            assert {key: meta[key] for key in same} == {key: wanted[layout][key] for key in same}
    (tmp_path / "packed/1").write_bytes(gzip.compress(text)[:-20])
    (tmp_path / "packed/2").write_bytes(b"after")
    with pytest.raises(UserError, match="packed/1: not a whole compressed file"):
        run(tmp_path / "bad", f"text:{tmp_path}/packed/[012]")
    meta = run(tmp_path / "bad", f"text:{tmp_path}/packed/[012]", mode="skip")
    assert (tmp_path / "bad" / "all.bin").read_bytes() == b"\0" + text + b"\0after" and meta["skipped"] == 1


def test_a_long_build_says_how_far_it_is(tmp_path, write_texts, monkeypatch):
    lines = []
    monkeypatch.setattr(build, "SECONDS_BETWEEN_LINES", 0)
    monkeypatch.setattr(build.logging, "info", lambda text, *values: lines.append(text % values))
    spec = write_texts([b"a" * 600_000, b"b" * 600_000])
    run(tmp_path / "index", spec)
    assert f"indexing {spec}: 2 documents, 1 MB so far" in lines
    assert lines[-1] == f"indexed {spec}: 2 documents, 1200000 bytes"
