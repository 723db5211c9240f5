"""Small sources on disk, and configs that read them."""

import json

import pytest

from scratchpatch import config as configs


@pytest.fixture
def awkward():
    """Documents that a byte model must survive."""
    utf8 = "caf\u00e9 \u4e2d".encode()
    return [b"plain text\n", b"", bytes(range(256)), b"x", b"\xff\xfe broken \xc3(", utf8, b"\0\0\0"]


@pytest.fixture
def cache(tmp_path):
    return str(tmp_path / "cache")


@pytest.fixture
def write_texts(tmp_path):
    """Write documents as files of their own; returns the SPEC."""

    def write(documents, folder="texts"):
        (tmp_path / folder).mkdir()
        for number, data in enumerate(documents):
            (tmp_path / folder / f"{number:04}.txt").write_bytes(data)
        return f"text:{tmp_path}/{folder}/*.txt"

    return write


@pytest.fixture
def write_lines(tmp_path):
    """Write lines (bytes, or objects to be dumped) to one file; returns (SPEC, path)."""

    def write(lines, name="lines.jsonl"):
        path = tmp_path / name
        path.write_bytes(b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n" for x in lines))
        return f"jsonl:{path}", path

    return write


@pytest.fixture
def make_config(cache):
    """A config over (SPEC, weight) pairs with windows of 16 bytes and 8 rows."""

    def make(sources, validation_sources=(), **data):
        config = configs.default()
        config.data.sources = tuple(sources)
        config.data.validation_sources = tuple(validation_sources)
        config.data.window = 16
        config.data.held_out = 0.2
        config.data.cache_dir = cache
        config.training.batch_rows = 8
        for name, value in data.items():
            config.data[name] = value
        return config

    return make
