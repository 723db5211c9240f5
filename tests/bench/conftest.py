"""A config that compiles in seconds."""

import pytest

from scratchpatch import config as config_lib
from tests import runs

FIELDS = runs.SMALL | {
    "data.window": 128,
    "model.encoder.window": 16,
    "model.decoder.window": 16,
    "trigger.rate": 3 / 16,
    "mesh.data": 1,
}


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "texts").mkdir()
    for i in range(12):
        (tmp_path / "texts" / f"{i}.txt").write_bytes(bytes((i * j) % 251 for j in range(3000)))
    places = {"data.sources": ((f"text:{tmp_path}/texts/*.txt", 1.0),), "data.cache_dir": str(tmp_path / "cache")}
    return config_lib.from_flat(config_lib.flat(config_lib.default()) | FIELDS | places)
