"""Which platforms JAX is told to try, by what is installed and plugged in."""

import importlib.util
import os
import sys
import types
from pathlib import Path

import pytest

from scratchpatch import platforms

CUDA, ROCM = "jax_plugins.xla_cuda13", "jax_plugins.xla_rocm7"


@pytest.fixture
def machine(monkeypatch):
    """machine(files, plugins, jax=None, libtpu=True, **environment) -> what JAX is told; None: nothing."""

    def choose(files=(), plugins=(), jax=None, libtpu=True, **environment):
        for name in [*os.environ]:
            if name.startswith(("TPU_", "JAX_PLATFORMS")):
                monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(platforms, "_chosen", None)
        monkeypatch.setattr(platforms.glob, "glob", lambda pattern: [f for f in files if Path(f).match(pattern)])
        monkeypatch.setattr(platforms, "_plugins", lambda: list(plugins))
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: libtpu or None)
        if jax is None:
            monkeypatch.delitem(sys.modules, "jax", raising=False)
        else:
            monkeypatch.setitem(sys.modules, "jax", jax)
        platforms.choose()
        return os.environ.get("JAX_PLATFORMS")

    return choose


def test_without_a_tpu_jax_is_told_what_else_is_there(machine):
    assert machine() == "cpu" and not platforms.unused_gpu()
    assert machine(["/dev/nvidia0"], [CUDA]) == "cuda,cpu" and not platforms.unused_gpu()
    assert machine(["/dev/nvidiactl"], [CUDA, "jax_plugins.xla_cuda12"]) == "cuda,cpu"
    assert machine(["/dev/kfd"], [ROCM]) == "rocm,cpu"
    # As JAX itself: a plugin without a device, or a device without a plugin, is no platform.
    assert machine([], [CUDA, ROCM]) == "cpu"
    assert machine(["/dev/nvidia0"]) == "cpu" and platforms.unused_gpu()
    # What is only said of logs, and what JAX and libtpu set themselves, is no TPU.
    assert machine(TPU_SKIP_MDS_QUERY="1", TPU_LIBRARY_PATH="/x/libtpu.so", TPU_MIN_LOG_LEVEL="2") == "cpu"
    assert machine(["/dev/vfio/vfio"]) == "cpu"


@pytest.mark.parametrize(
    "there",
    [
        {"files": ["/dev/accel0"]},
        {"files": ["/dev/vfio/0", "/dev/vfio/vfio"]},
        {"TPU_WORKER_ID": "0"},
        {"TPU_NAME": "pod"},
        {"JAX_FORCE_TPU_INIT": "1"},
        {"libtpu": False},
        {"plugins": ["jax_plugins.of_another_maker"]},
    ],
)
def test_where_a_tpu_may_be_or_nothing_is_known_jax_chooses(machine, there):
    assert machine(**there) is None and not platforms.unused_gpu()


def test_a_tpu_on_the_bus_is_seen_and_googles_network_card_is_none(machine, tmp_path, monkeypatch):
    monkeypatch.setattr(platforms, "_BUS", tmp_path)
    card, chip = tmp_path / "0", tmp_path / "1"
    card.mkdir()
    (card / "vendor").write_text("0x1ae0\n")
    (card / "class").write_text("0x020000\n")
    assert machine() == "cpu"
    chip.mkdir()
    (chip / "vendor").write_text("0x1ae0\n")
    (chip / "class").write_text("0x120000\n")
    assert machine() is None


def test_plugins_are_found_where_jax_looks_for_them(monkeypatch, tmp_path):
    """In the package jax_plugins, and among the entry points of what is installed."""
    (tmp_path / "jax_plugins" / "xla_cuda99").mkdir(parents=True)
    (tmp_path / "jax_plugins" / "xla_cuda99" / "__init__.py").write_text("")
    about = tmp_path / "other-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[jax_plugins]\nother = jax_plugins.other\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "jax_plugins", raising=False)
    assert {"jax_plugins.xla_cuda99", "jax_plugins.other"} <= set(platforms._plugins())


def test_what_the_user_set_stays(machine):
    for value in ("tpu", "", "cuda"):
        assert machine(JAX_PLATFORMS=value) == value and not platforms.unused_gpu()


def test_a_jax_that_is_already_there_is_told_by_its_config(machine):
    def jax(platforms):
        told = types.SimpleNamespace(jax_platforms=platforms)
        told.update = lambda name, value: setattr(told, name, value)
        return types.SimpleNamespace(config=told)

    fresh, set_before = jax(None), jax("tpu,cpu")
    assert machine(jax=fresh) is None and fresh.config.jax_platforms == "cpu"
    assert machine(jax=set_before) is None and set_before.config.jax_platforms == "tpu,cpu"
