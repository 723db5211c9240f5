"""Programs of the tests are compiled with few optimisations: compiling is most of their time.

The numbers differ from those of the usual options by rounding alone.
"""

import os
import subprocess
import sys

_FLAGS = ("--xla_backend_optimization_level=0", "--xla_llvm_disable_expensive_passes=true")
# XLA ends a process that gives it a flag that it does not know, and not every version has these. Small programs in many
# parts cost more than they gain: tests run in as many processes as there are cores.
_NEWER = ("--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1")


def compile_quickly() -> None:
    """Set XLA_FLAGS for this process, which has not asked XLA for anything yet, and for those that it starts."""
    if "XLA_FLAGS" in os.environ:
        # Set by the user, or by the process that started this one.
        return
    ask = [sys.executable, "-c", "import jax; jax.devices()"]
    env = os.environ | {"XLA_FLAGS": " ".join(_NEWER), "JAX_PLATFORMS": "cpu"}
    known = subprocess.run(ask, env=env, capture_output=True)
    os.environ["XLA_FLAGS"] = " ".join(_FLAGS if known.returncode else (*_FLAGS, *_NEWER))
