"""How programs are compiled: into a persistent cache, so that a second start compiles nothing anew."""

import os
from pathlib import Path


def folder() -> Path:
    """Where compiled programs are kept: $SCRATCHPATCH_CACHE/xla, else ~/.cache/scratchpatch/xla."""
    base = os.environ.get("SCRATCHPATCH_CACHE")
    return (Path(base) if base else Path.home() / ".cache" / "scratchpatch") / "xla"


def enable() -> None:
    """Make JAX keep and reuse compiled programs; a folder that JAX_COMPILATION_CACHE_DIR names stays.

    Call it before the first compilation: JAX opens the cache once.
    """
    # The C++ side of XLA reads this when it is loaded; its warnings about
    # tuning are not for the user of a training run.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import jax

    if not jax.config.jax_compilation_cache_dir:
        jax.config.update("jax_compilation_cache_dir", str(folder()))
    # By default only programs that took a second or more are kept, and a run
    # compiles many small ones.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def quick() -> dict | None:
    """Compiler options for a program that runs once or a few times, where compiling is most of its time."""
    import jax

    return {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
