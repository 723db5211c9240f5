"""Programs of the tests are compiled with few optimisations: compiling is most of their time.

The numbers differ from those of the usual options by rounding alone.
"""

import os
import subprocess
import sys

from scratchpatch import compilation_cache


def _flags(options: dict) -> list[str]:
    return [f"--{name}={str(value).lower()}" for name, value in options.items()]


def compile_quickly() -> None:
    """Set XLA_FLAGS for this process, which has not asked XLA for anything yet, and for those that it starts."""
    if "XLA_FLAGS" in os.environ:
        # Set by the user, or by the process that started this one.
        return
    usual, newer = _flags(compilation_cache.QUICK), _flags(compilation_cache.NEWER)
    # XLA ends a process that gives it a flag that it does not know.
    ask = [sys.executable, "-c", "import jax; jax.devices()"]
    env = os.environ | {"XLA_FLAGS": " ".join(newer), "JAX_PLATFORMS": "cpu"}
    known = subprocess.run(ask, env=env, capture_output=True)
    os.environ["XLA_FLAGS"] = " ".join(usual if known.returncode else usual + newer)
