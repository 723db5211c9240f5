"""A config that compiles in seconds."""

import jax
import pytest

from scratchpatch import config as config_lib
from scratchpatch.training.step import Trainer
from tests.tiny import QUICK


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "texts").mkdir()
    for i in range(12):
        (tmp_path / "texts" / f"{i}.txt").write_bytes(bytes((i * j) % 251 for j in range(3000)))
    config = config_lib.default()
    config.data.sources = ((f"text:{tmp_path}/texts/*.txt", 1.0),)
    config.data.cache_dir = str(tmp_path / "cache")
    config.data.window, config.data.held_out = 128, 0.2
    config.model.d_byte, config.model.encoder.heads, config.model.decoder.heads = 16, 2, 2
    config.model.pooling.heads = 2
    config.model.encoder.window = config.model.decoder.window = 16
    config.model.entropy_head.layers = config.model.decoder.layers = 1
    config.model.trunk.layers, config.model.trunk.d_model, config.model.trunk.heads = 1, 32, 2
    config.trigger.rate = 3 / 16
    config.training.batch_rows = 2
    config.mesh.data = 1
    return config


@pytest.fixture
def quick_compilation(monkeypatch):
    """Train steps are compiled in a fifth of the time, and run slower."""

    def compile(self):
        with jax.set_mesh(self.mesh):
            return self._step.lower(self.abstract_state(), self.batch, self.settings).compile(compiler_options=QUICK)

    monkeypatch.setattr(Trainer, "compile", compile)
