"""Every program of these tests is compiled with few optimisations: compiling is most of their time."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly():
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
