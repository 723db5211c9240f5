"""Where compiled programs are kept, and what is said where they cannot be."""

import logging
import os
from pathlib import Path

import jax
import pytest

from scratchpatch import compilation_cache


def test_folder_is_that_of_the_environment_or_the_home(monkeypatch, tmp_path):
    monkeypatch.setattr(compilation_cache.platforms, "cores", lambda: 3)
    monkeypatch.setenv("SCRATCHPATCH_CACHE", str(tmp_path))
    assert compilation_cache.folder() == tmp_path / "xla" / "3_cores"
    monkeypatch.delenv("SCRATCHPATCH_CACHE")
    monkeypatch.setenv("HOME", "/home/me")
    assert compilation_cache.folder() == Path("/home/me/.cache/scratchpatch/xla/3_cores")


def test_enable_keeps_small_programs_and_a_folder_already_named(monkeypatch, tmp_path):
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.setenv("SCRATCHPATCH_CACHE", str(tmp_path))
    compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir == before
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0


@pytest.fixture
def unnamed():
    """JAX without a folder yet."""
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("below", ["a file", "a read-only folder", "a name that is no UTF-8"])
def test_a_folder_that_cannot_be_written_is_one_warning_and_no_cache(monkeypatch, tmp_path, unnamed, caplog, below):
    if below == "a file":
        (tmp_path / "cache").write_text("")
    elif below == "a name that is no UTF-8":
        # JAX would raise where it compiles.
        monkeypatch.setattr(compilation_cache, "folder", lambda: tmp_path / "\udce9" / "xla")
    else:
        # Root may write everywhere but where the system says no.
        monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setenv("SCRATCHPATCH_CACHE", str(tmp_path / "cache"))
    with caplog.at_level(logging.WARNING):
        compilation_cache.enable()
    assert jax.config.jax_compilation_cache_dir is None
    (said,) = caplog.messages
    assert said.startswith("compiled programs are not kept") and said.endswith("set SCRATCHPATCH_CACHE")


def test_a_folder_that_is_missing_is_made(monkeypatch, tmp_path, unnamed):
    monkeypatch.setenv("SCRATCHPATCH_CACHE", str(tmp_path / "a" / "b"))
    compilation_cache.enable()
    folder = compilation_cache.folder()
    assert jax.config.jax_compilation_cache_dir == str(folder) and folder.is_dir()


def test_options_that_this_version_of_xla_does_not_know_are_left_out(monkeypatch):
    assert compilation_cache.quick() == compilation_cache.QUICK | compilation_cache.NEWER
    monkeypatch.setattr(compilation_cache, "NEWER", {"xla_cpu_no_such_option": True})
    assert compilation_cache.quick.__wrapped__() == compilation_cache.QUICK
    monkeypatch.setattr(compilation_cache, "QUICK", {"xla_cpu_none_either": 1})
    assert compilation_cache.quick.__wrapped__() is None
