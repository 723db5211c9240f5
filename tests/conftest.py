"""Tests run on the CPU, and share one folder of compiled programs among processes and runs."""

import os
from pathlib import Path

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["SCRATCHPATCH_CACHE"] = str(Path(__file__).parents[1] / ".pytest_cache" / "scratchpatch")

import jax  # noqa: E402
from hypothesis import settings  # noqa: E402

from scratchpatch import compilation_cache  # noqa: E402

compilation_cache.enable()
# Simulated devices, for the tests of meshes; in this process alone, not in those that tests start.
jax.config.update("jax_num_cpu_devices", 8)

# The first example of a property compiles, which no deadline should count.
settings.register_profile("scratchpatch", deadline=None, derandomize="CI" in os.environ)
settings.load_profile("scratchpatch")
