from pathlib import Path

import jax

from scratchpatch import compilation_cache


def test_folder_is_that_of_the_environment_or_the_home(monkeypatch, tmp_path):
    monkeypatch.setenv("SCRATCHPATCH_CACHE", str(tmp_path))
    assert compilation_cache.folder() == tmp_path / "xla"
    monkeypatch.delenv("SCRATCHPATCH_CACHE")
    assert compilation_cache.folder() == Path.home() / ".cache" / "scratchpatch" / "xla"


def test_enable_keeps_small_programs_and_a_folder_already_named(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("SCRATCHPATCH_CACHE", str(tmp_path))
    compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir == before
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0
