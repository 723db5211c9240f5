"""A config that compiles in seconds."""

import pytest

from scratchpatch import config as config_lib
from tests import runs

FIELDS = {
    "data.window": 128,
    "data.held_out": 0.2,
    "model.d_byte": 16,
    "model.encoder.layers": 1,
    "model.encoder.heads": 2,
    "model.encoder.window": 16,
    "model.entropy_head.layers": 1,
    "model.pooling.heads": 2,
    "model.trunk.layers": 1,
    "model.trunk.d_model": 32,
    "model.trunk.heads": 2,
    "model.decoder.layers": 1,
    "model.decoder.heads": 2,
    "model.decoder.window": 16,
    "trigger.rate": 3 / 16,
    "training.batch_rows": 2,
    "mesh.data": 1,
}


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "texts").mkdir()
    for i in range(12):
        (tmp_path / "texts" / f"{i}.txt").write_bytes(bytes((i * j) % 251 for j in range(3000)))
    places = {"data.sources": ((f"text:{tmp_path}/texts/*.txt", 1.0),), "data.cache_dir": str(tmp_path / "cache")}
    return config_lib.from_flat(config_lib.flat(config_lib.default()) | FIELDS | places)


@pytest.fixture
def quick_compilation(monkeypatch):
    """Train steps are compiled in a fifth of the time, and run slower."""
    runs.compile_quickly(monkeypatch.setattr)
