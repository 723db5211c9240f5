"""How programs are compiled: into a persistent cache, so that a second start compiles nothing anew."""

import contextlib
import functools
import os
from pathlib import Path

from absl import logging

from scratchpatch import places, platforms
from scratchpatch.errors import UserError

# Options of XLA for the CPU. It refuses one that it does not know, and not every version has the newer ones: without
# fusions by MLIR a model compiles in 40% of the time. More than one part pays where a processor idles, which none does
# at the start of a run.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
NEWER = {"xla_cpu_use_fusion_emitters": False, "xla_cpu_parallel_codegen_split_count": 1}


def folder() -> Path:
    """Where compiled programs are kept: `xla` in the cache folder (see `places.cache_folder`). Raises UserError.

    Those of each number of cores lie apart: XLA divides work by the cores of the process that compiles, and JAX does
    not tell such programs from each other.
    """
    return places.cache_folder() / "xla" / f"{platforms.cores()}_cores"


def enable() -> None:
    """Make JAX keep and reuse compiled programs; a folder that JAX_COMPILATION_CACHE_DIR names stays. Where nothing can
    be written, a warning says so. Call it before the first compilation: JAX opens the cache once.
    """
    # XLA reads this when it is loaded; its warnings about tuning are not for the user of a training run.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax

    if platforms.unused_gpu():
        missing = "an NVIDIA GPU is here, but the plugin with which JAX uses it is not"
        logging.warning("%s, so this runs on the CPU: bash launch/setup.sh cuda", missing)
    if not jax.config.jax_compilation_cache_dir and (path := _writable_folder()):
        jax.config.update("jax_compilation_cache_dir", path)
    # By default only programs that took a second or more are kept, and a run compiles many small ones.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _writable_folder() -> str | None:
    """The folder, made where it is missing; None where it cannot be written, which a warning says."""
    try:
        path = folder()
        if unfit := places.unstorable(str(path)):
            problem = f"the cache {unfit.partition(';')[0]}: set SCRATCHPATCH_CACHE"
        else:
            path.mkdir(parents=True, exist_ok=True)
            if os.access(path, os.W_OK | os.X_OK):
                return str(path)
            problem = f"{path} cannot be written: set SCRATCHPATCH_CACHE"
    except OSError as error:
        problem = f"{path} cannot be made ({error.strerror}): set SCRATCHPATCH_CACHE"
    except UserError as error:
        problem = str(error)
    logging.warning("compiled programs are not kept, so that every start compiles them anew: %s", problem)
    return None


@functools.lru_cache
def quick() -> dict | None:
    """Compiler options for a program that runs once or a few times, where compiling is most of its time."""
    import jax

    if jax.default_backend() != "cpu":
        return None
    nothing = jax.jit(lambda: None).lower()
    for options in (QUICK | NEWER, QUICK):
        with contextlib.suppress(jax.errors.JaxRuntimeError):
            nothing.compile(options)
            return options
    return None
