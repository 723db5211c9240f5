import importlib.util

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from scratchpatch import config as config_lib, timing
from scratchpatch.bench import models, train
from tests import runs


@pytest.fixture
def quick(monkeypatch):
    """One turn of each, and a small product."""
    for name in ("_SECONDS", "_FLAT_SECONDS"):
        monkeypatch.setattr(train, name, 0.0)
    monkeypatch.setattr(timing, "_FEWEST_TURNS", 1)
    monkeypatch.setattr(train, "_GEMM_SIZE", 64)
    monkeypatch.setattr(train, "_EVALUATED", 300)


def test_the_models_of_the_config_are_measured(tiny, quick, monkeypatch):
    monkeypatch.setattr(models, "FLAT_SHAPES", ())
    monkeypatch.setattr(train, "_VARIANTS", {"byte-level": models.byte_level})
    measured = train.measure(config_lib.from_flat(config_lib.flat(tiny) | runs.SHALLOW)).as_dict()
    numbers = measured["numbers"]
    assert list(numbers) == ["config", "byte-level", "evaluation"]
    ours, byte_level = numbers["config"], numbers["byte-level"]
    assert ours["bytes_per_step"] == byte_level["bytes_per_step"] == 256
    assert byte_level["trunk_calls_per_byte"] == byte_level["trunk_slots_per_byte"] == 1.0
    assert ours["trunk_slots_per_byte"] == pytest.approx((8 + 30) / 128)
    assert 0 < ours["trunk_calls_per_byte"] <= ours["trunk_slots_per_byte"]
    assert ours["kiloflops_per_byte"] > 0 and ours["memory_megabytes"] > 0 and ours["compile_seconds"] > 0
    share = ours["gigaflops_per_second"] / ours["gemm_gigaflops_per_second"]
    assert ours["share_of_gemm_peak"] == pytest.approx(share) and share > 0
    # Windows of 128 that begin at every 64th of 300 positions answer for them.
    evaluation = numbers["evaluation"]
    assert evaluation["computed_bytes_per_second"] / evaluation["bytes_per_second"] == pytest.approx(4 * 128 / 300)
    assert evaluation["share_of_gemm_peak"] > 0
    assert {target["name"]: target["at_least"] for target in measured["targets"]} == {
        "config: share of the GEMM peak": 0.5, "config: evaluation over training, bytes/s": 3.0,
    }


def test_the_flat_model_stands_beside_torch_on_the_same_bytes(tiny, quick):
    """Where torch is not installed, the model stands alone and a note says so."""
    numbers, targets, notes = train._flat(tiny, 2, 64)
    ours = numbers["flat 2 x 64"]
    assert ours["bytes_per_step"] == 128 and ours["share_of_gemm_peak"] > 0
    if not importlib.util.find_spec("torch"):
        assert len(numbers) == 1 and not targets and "pip install torch==2.13.0" in notes[0]
        return
    # Ours gates its feed-forward block, and projects bytes to the trunk and back.
    peer, (target,) = numbers["torch 2 x 64"], targets
    assert peer["bytes_per_step"] == 128
    assert peer["kiloflops_per_byte"] == pytest.approx(ours["kiloflops_per_byte"], rel=0.1)
    assert target["name"] == "flat over torch, 2 x 64" and target["at_least"] == 1.2 and target["value"] > 0


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
