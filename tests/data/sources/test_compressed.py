"""Compressed files are known by their bytes, and read to their end."""

import bz2
import gzip
import io
import json
import lzma

import fsspec
import numpy as np
import pytest
import zstandard

from scratchpatch.data import paths
from scratchpatch.data.index import open_stream
from scratchpatch.data.sources.compressed import open_bytes
from scratchpatch.errors import UserError
from scratchpatch.preparation.folder import prepare
from tests.data.sources.reading import read, texts

LINES = b"".join(json.dumps({"text": f"line {i} " * 40}).encode() + b"\n" for i in range(800))
TEXTS = [f"line {i} ".encode() * 40 for i in range(800)]
SKIPPABLE = b"\x53\x2a\x4d\x18" + (6).to_bytes(4, "little") + b"hidden"
PACK = {
    "gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
}


def unpacked(path):
    with open_bytes(str(path)) as file:
        return file.read()


@pytest.mark.parametrize("name", ["a.txt", "a", "a.GZ", "a.zst", "a.Bz2"])
@pytest.mark.parametrize("pack", PACK.values(), ids=PACK)
def test_the_first_bytes_say_what_it_is(tmp_path, pack, name):
    (tmp_path / name).write_bytes(pack(LINES))
    assert unpacked(tmp_path / name) == LINES


@pytest.mark.parametrize("kind", PACK)
def test_members_one_after_the_other_are_read_whole(tmp_path, kind):
    pack = PACK[kind]
    half = len(LINES) // 2
    between = {"gzip": bytes(5), "xz": bytes(70_000), "zstd": SKIPPABLE, "bz2": b""}[kind]
    before = SKIPPABLE if kind == "zstd" else b""
    (tmp_path / "a").write_bytes(before + pack(LINES[:half]) + between + pack(LINES[half:]) + between)
    assert unpacked(tmp_path / "a") == LINES
    assert texts(f"jsonl:{tmp_path}/a") == TEXTS


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("damage", ["cut", "cut in the second", "more"])
def test_what_is_not_whole_is_an_error(tmp_path, kind, damage):
    packed = PACK[kind](LINES)
    damaged = {"cut": packed[:-9], "cut in the second": packed + packed[:-9], "more": packed + b"other bytes"}[damage]
    (tmp_path / "a.jsonl").write_bytes(damaged)
    with pytest.raises(EOFError):
        unpacked(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match=r"a\.jsonl:\d+: not a whole compressed file"):
        texts(f"jsonl:{tmp_path}/a.jsonl")


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_the_documents_before_damage_are_read_and_the_rest_is_of_unknown_number(tmp_path, kind):
    """Its messages name the file, and say that nobody knows how many records are lost."""
    random = np.random.default_rng(0).integers(97, 123, 300_000, np.uint8).tobytes()
    packed = PACK[kind](b'{"text": "x"}\n' + json.dumps({"text": random.decode()}).encode())
    path = tmp_path / "a.jsonl"
    path.write_bytes(packed[: len(packed) // 2])
    documents, bad = read(f"jsonl:{path}", "skip")
    assert documents == [("a.jsonl#1", b"x")] and (bad.count, bad.broken) == (1, 1)
    assert bad.messages[0].startswith(f"{path}:2: not a whole compressed file")
    assert "nobody knows how many records" in bad.messages[0]


def test_what_only_looks_like_it_is_text(tmp_path):
    for number, data in enumerate((b"BZh is a format", b"BZh9 too", b"\x1f\x8b", b"(", b"", b"PK\x03\x04", b"x*M\x18")):
        (tmp_path / f"{number}.txt").write_bytes(data)
        assert unpacked(tmp_path / f"{number}.txt") == data


@pytest.mark.parametrize("suffix, name", [("gz", "gzip"), ("ZST", "zstd"), ("bz2", "bz2"), ("xz", "xz")])
def test_a_name_that_is_not_true_is_an_error(tmp_path, suffix, name):
    (tmp_path / f"a.{suffix}").write_bytes(b"plain text")
    says = f"not a whole compressed file \\(its name says {name}, its first bytes do not\\)"
    with pytest.raises(UserError, match=says):
        open_stream(f"text:{tmp_path}/a.{suffix}", "all", str(tmp_path / "cache"))
    documents, bad = read(f"jsonl:{tmp_path}/a.{suffix}", "skip")
    assert documents == [] and bad.count == 1


def test_a_zstandard_window_of_any_size_is_read(tmp_path):
    """The smallest frame that asks for 2^28: as whole as any other, and none of its documents is a bad record."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=27)
    out = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    frame = bytearray(out.compress(b'{"text": "a"}\n{"text": "b"}\n') + out.flush())
    # The window's logarithm less 10 lies in the upper five bits after the frame header's first byte.
    assert frame[5] >> 3 == 17
    for log in (28, 30, 31):
        frame[5] = (log - 10) << 3
        (tmp_path / f"{log}.jsonl").write_bytes(frame)
        assert texts(f"jsonl:{tmp_path}/{log}.jsonl") == [b"a", b"b"]


def test_prepared_and_behind_urls_too(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lzma.compress(LINES))
    assert prepare(f"jsonl:{tmp_path}/a.jsonl", str(tmp_path / "out"))["documents"] == 800
    files = fsspec.filesystem("memory")
    files.pipe_file("/packed/a.jsonl", bz2.compress(LINES))
    try:
        assert texts("jsonl:memory://packed/*.jsonl") == TEXTS
    finally:
        files.rm("/packed", recursive=True)


@pytest.mark.parametrize("kind", PACK)
def test_a_bomb_is_unpacked_a_little_at_a_time(tmp_path, kind):
    """However few bytes say so many."""
    (tmp_path / "a").write_bytes(PACK[kind](bytes(1 << 26)))
    with open_bytes(str(tmp_path / "a")) as file:
        sizes = [len(piece) for piece in file.raw.pieces]
    assert sum(sizes) == 1 << 26 and max(sizes) <= 1 << 25


class Once(io.RawIOBase):
    """Bytes that can be read once, a few at a time, as some file systems behind URLs give them."""

    def __init__(self, data):
        self._file = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, into):
        return self._file.readinto(memoryview(into)[:100])


@pytest.mark.parametrize("data", [LINES[:9000], gzip.compress(LINES[:9000])], ids=["plain", "gzip"])
def test_what_can_be_read_once_loses_nothing(monkeypatch, data):
    """What told its format belongs to the text."""
    monkeypatch.setattr(paths, "open_read", lambda _: Once(data))
    assert unpacked("a") == LINES[:9000]
