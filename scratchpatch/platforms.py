"""Which of the installed platforms JAX tries. This file does not import JAX.

By itself JAX asks libtpu for a TPU wherever that package is installed. It is the compiler of `scratchpatch plan`, too,
and without a TPU it prints errors and looks for a metadata server on the network.
"""

import glob
import importlib.util
import os
import pkgutil
import sys
from importlib import metadata
from pathlib import Path

# Whoever sets one of these knows of a TPU, or of a plugin; but some are set by JAX itself, or say how much is logged.
_VARIABLES = ("TPU_", "CLOUD_TPU", "COLAB_TPU", "JAX_FORCE_TPU", "PJRT_")
_IRRELEVANT = ("TPU_LIBRARY_PATH", "TPU_SKIP_MDS_QUERY", "TPU_MIN_LOG_LEVEL", "TPU_STDERR_LOG_LEVEL")
_TPU_DEVICES = ("/dev/accel*", "/dev/vfio/[0-9]*")
_GPU_DEVICES = {"cuda": ("/dev/nvidia0", "/dev/nvidiactl", "/dev/dxg"), "rocm": ("/dev/kfd", "/dev/dxg")}
_BUS = Path("/sys/bus/pci/devices")
# Classes of PCI devices of Google's that are no TPU: storage and network.
_GOOGLE = "0x1ae0"
_NO_TPU = ("0x01", "0x02")
_chosen: str | None = None


def choose() -> None:
    """Keep JAX from asking for a TPU where libtpu is installed and no TPU is there; else leave its choice alone. What
    the user set (JAX_PLATFORMS, jax_platforms) stays. Call it before JAX has devices.
    """
    global _chosen
    if "JAX_PLATFORMS" in os.environ or importlib.util.find_spec("libtpu") is None or _may_have_tpu():
        return
    if (others := _others()) is None:
        return
    if "jax" not in sys.modules:
        os.environ["JAX_PLATFORMS"] = others
    elif (config := sys.modules["jax"].config).jax_platforms:
        return
    else:
        config.update("jax_platforms", others)
    _chosen = others


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def unused_gpu() -> bool:
    """Whether an NVIDIA GPU is there, and `choose` took the CPU because JAX has no plugin for it."""
    return _chosen == "cpu" and _any(_GPU_DEVICES["cuda"]) and not any("cuda" in name for name in _plugins())


def accelerator() -> bool:
    """Whether a GPU or a TPU may be there; where the user has JAX take the CPU alone, none is."""
    if _chosen is None and os.environ.get("JAX_PLATFORMS") == "cpu":
        return False
    return any(_any(files) for files in _GPU_DEVICES.values()) or _may_have_tpu()


def _others() -> str | None:
    """What JAX would try beside a TPU, as jax_platforms has it; None where there is a plugin of another kind."""
    kinds = [next((kind for kind in _GPU_DEVICES if kind in name), None) for name in _plugins()]
    if None in kinds:
        return None
    return ",".join([*(kind for kind in dict.fromkeys(kinds) if _any(_GPU_DEVICES[kind])), "cpu"])


def _plugins() -> list[str]:
    """Names of the modules of JAX's plugins, such as jax_plugins.xla_cuda13, where JAX looks for them."""
    package = importlib.util.find_spec("jax_plugins")
    modules = pkgutil.iter_modules(package.submodule_search_locations, "jax_plugins.") if package else ()
    points = metadata.entry_points(group="jax_plugins")
    return sorted({*(module.name for module in modules), *(point.value for point in points)})


def _may_have_tpu() -> bool:
    if any(name.startswith(_VARIABLES) and name not in _IRRELEVANT for name in os.environ) or _any(_TPU_DEVICES):
        return True
    google = (vendor.parent for vendor in _BUS.glob("*/vendor") if _text(vendor) == _GOOGLE)
    return any(not _text(device / "class").startswith(_NO_TPU) for device in google)


def _any(patterns: tuple[str, ...]) -> bool:
    return any(glob.glob(pattern) for pattern in patterns)


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
