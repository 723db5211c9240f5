import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from scratchpatch import config as config_lib, timing
from scratchpatch.bench import train
from tests import runs


def test_both_sides_are_measured_on_the_same_bytes(tiny, monkeypatch):
    monkeypatch.setattr(train, "_SECONDS", 0.0)
    monkeypatch.setattr(timing, "_FEWEST_TURNS", 1)
    measured = train.measure(config_lib.from_flat(config_lib.flat(tiny) | runs.SHALLOW)).as_dict()
    ours, byte_level = measured["numbers"]["config"], measured["numbers"]["byte-level"]
    assert ours["bytes_per_step"] == byte_level["bytes_per_step"] == 256
    assert byte_level["trunk_calls_per_byte"] == byte_level["trunk_slots_per_byte"] == 1.0
    assert ours["trunk_slots_per_byte"] == pytest.approx((8 + 30) / 128)
    assert 0 < ours["trunk_calls_per_byte"] <= ours["trunk_slots_per_byte"]
    assert ours["kiloflops_per_byte"] > 0 and ours["memory_megabytes"] > 0 and ours["compile_seconds"] > 0


def test_the_byte_level_config_keeps_the_trunk(tiny):
    other = train.byte_level(tiny)
    assert other.model.trunk == tiny.model.trunk and other.model.encoder == tiny.model.encoder
    assert other.patching.kind == "byte" and tiny.patching.kind == "fixed"


def test_inside_nothing_is_read_from_the_cache(tmp_path):
    """A program that the cache holds is compiled anew, and not stored."""
    folder = jax.config.jax_compilation_cache_dir
    jax_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        with train.nothing_cached():
            jax.jit(lambda x: x * 3.25).lower(jnp.ones(3)).compile()
        assert not list(tmp_path.iterdir())
        jax.jit(lambda x: x * 4.25).lower(jnp.ones(3)).compile()
        assert list(tmp_path.iterdir())
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax_cache.reset_cache()
