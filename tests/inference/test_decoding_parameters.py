"""The parameters that decoding reads: layer by layer, kernels in the type that they are multiplied in."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from scratchpatch.inference import decoding
from scratchpatch.model import layers, weights as weights_lib
from scratchpatch.model.steps import Steps
from tests import tiny

FIELDS = {
    "training.dtype": "bfloat16",
    "model.decoder.injection": "cross_attention",
    "model.encoder.ngrams": (3,),
    "model.encoder.ngram_rows": 50,
    "model.trunk.layers": 1,
}


@pytest.fixture(scope="module")
def config():
    return tiny.config(FIELDS)


def test_kernels_are_kept_in_the_type_of_the_activations_and_the_rest_in_float32(config):
    parameters = decoding.programs(weights_lib.without_thresholds(config), None).separate(tiny.weights(config))
    leaves = jax.tree_util.tree_leaves_with_path(parameters)
    types = {jax.tree_util.keystr(path): x.dtype for path, x in leaves}
    assert {dtype for path, dtype in types.items() if "kernel" in path} == {jnp.dtype("bfloat16")}
    assert {dtype for path, dtype in types.items() if "kernel" not in path} == {jnp.dtype("float32")}


def test_rounded_kernels_give_the_same_logits_bit_by_bit(config):
    definition, _ = weights_lib.abstract(config)
    models = [Steps(weights_lib.merge(definition, tiny.weights(config))) for _ in range(2)]
    layers.round_kernels(models[1])
    tokens_BC = jnp.asarray(tiny.batch(length=16))

    @nnx.jit
    def logits(model):
        return model.chunk(model.empty(2), tokens_BC)[2]

    whole, rounded = map(logits, models)
    assert np.isfinite(whole).all()
    np.testing.assert_array_equal(rounded, whole)
