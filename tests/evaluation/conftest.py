"""Every program of these tests is compiled with few optimisations: compiling is most of their time."""

import jax
import pytest
from jax._src import compiler

_OPTION = compiler._DISABLE_MOST_OPTIMIZATIONS


@pytest.fixture(scope="module", autouse=True)
def compiled_quickly():
    before = _OPTION.value
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
