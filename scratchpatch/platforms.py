"""Which of the platforms that are installed JAX tries. Free of JAX.

By itself JAX asks libtpu for a TPU wherever that package is installed. It is the compiler of `scratchpatch plan`, too,
and without a TPU it prints errors and looks for a metadata server on the network.
"""

from __future__ import annotations

import glob
import importlib.util
import os
import pkgutil
import sys
from importlib import metadata
from pathlib import Path

# Whoever sets one of these knows of a TPU, or of a plugin; but some are set by JAX itself, or say how much is logged.
_TOLD = ("TPU_", "CLOUD_TPU", "COLAB_TPU", "JAX_FORCE_TPU", "PJRT_")
_SAYS_NOTHING = ("TPU_LIBRARY_PATH", "TPU_SKIP_MDS_QUERY", "TPU_MIN_LOG_LEVEL", "TPU_STDERR_LOG_LEVEL")
_TPU_DEVICES = ("/dev/accel*", "/dev/vfio/[0-9]*")
_GPU_DEVICES = {"cuda": ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"), "rocm": ("/dev/kfd", "/dev/dxg")}
_BUS = Path("/sys/bus/pci/devices")
# Classes of PCI devices of Google's that are no TPU: storage and network.
_GOOGLE, _NO_TPU = "0x1ae0", ("0x01", "0x02")

_chosen: str | None = None


def choose() -> None:
    """Keep JAX from asking for a TPU where libtpu is installed and no TPU is there; else leave its choice alone.

    What the user set (JAX_PLATFORMS, jax_platforms) stays. Call it before JAX has devices.
    """
    global _chosen
    if "JAX_PLATFORMS" in os.environ or importlib.util.find_spec("libtpu") is None or _may_have_tpu():
        return
    wanted = _others()
    if wanted is None:
        return
    if "jax" not in sys.modules:
        os.environ["JAX_PLATFORMS"] = wanted
    elif (config := sys.modules["jax"].config).jax_platforms:
        return
    else:
        config.update("jax_platforms", wanted)
    _chosen = wanted


def unused_gpu() -> bool:
    """Whether an NVIDIA GPU is there, and `choose` took the CPU because JAX has no plugin for it."""
    return _chosen == "cpu" and _any(_GPU_DEVICES["cuda"]) and not any("cuda" in name for name in _plugins())


def _others() -> str | None:
    """What JAX would try but a TPU, as jax_platforms has it; None: there is a plugin that is not known here."""
    found = []
    for name in _plugins():
        kind = next((kind for kind in _GPU_DEVICES if kind in name), None)
        if kind is None:
            return None
        if _any(_GPU_DEVICES[kind]) and kind not in found:
            found.append(kind)
    return ",".join([*found, "cpu"])


def _plugins() -> list[str]:
    """Names of the modules of JAX's plugins, such as jax_plugins.xla_cuda13, where JAX looks for them."""
    package = importlib.util.find_spec("jax_plugins")
    below = pkgutil.iter_modules(package.submodule_search_locations, "jax_plugins.") if package else ()
    return sorted({*(module.name for module in below), *(point.value for point in metadata.entry_points(group="jax_plugins"))})


def _may_have_tpu() -> bool:
    if any(name.startswith(_TOLD) and name not in _SAYS_NOTHING for name in os.environ) or _any(_TPU_DEVICES):
        return True
    return any(_read(path) == _GOOGLE and not _read(path.with_name("class")).startswith(_NO_TPU) for path in _BUS.glob("*/vendor"))


def _any(patterns: tuple[str, ...]) -> bool:
    return any(glob.glob(pattern) for pattern in patterns)


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
