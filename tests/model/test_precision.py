"""Every product of a float32 model is a float32 one, on whatever platform: by the program that JAX lowers."""

import contextlib
import re

import jax
import jax.numpy as jnp
import pytest

from scratchpatch import sharding
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.kernels import choice, xla
from scratchpatch.model import loss as loss_lib, weights as weights_lib
from scratchpatch.training import step
from tests import tiny

# The head's layers are those of the other byte tiers.
LAYERS = {
    "model.encoder.layers": 1,
    "model.entropy_head.layers": 0,
    "model.trunk.layers": 1,
    "model.decoder.layers": 1,
}
SPLASH, PALLAS = ({"kernels.staircase": name, "kernels.window": name} for name in ("splash", "pallas"))


def precisions(lowered) -> set[str]:
    """Of every matrix product in a program, those inside of interpreted kernels included."""
    products = [line for line in lowered.as_text().splitlines() if "stablehlo.dot_general" in line]
    assert len(products) > 90
    return {re.search(r"precision = \[(.*?)\]", line)[1] if "precision" in line else "none" for line in products}


def of_gradient(fields) -> set[str]:
    config = tiny.config(LAYERS | fields)
    definition, weights = weights_lib.abstract(config)
    rest = {part: x for part, x in weights.items() if part != "params"}
    gradient = jax.jit(jax.grad(loss_lib.loss, has_aux=True), static_argnums=(2, 4, 5))
    tokens = jax.ShapeDtypeStruct((2, tiny.WINDOW + 1), jnp.int32)
    return precisions(gradient.lower(weights["params"], rest, definition, tokens, 9.0, 1.0))


@pytest.mark.parametrize(
    "fields, platform, chunk",
    [
        ({}, None, 512),
        ({"training.remat": "full", "model.decoder.injection": "cross_attention"}, None, 16),
        (SPLASH, "tpu", 512),
        (PALLAS, "gpu", 512),
    ],
    ids=["dense", "tiled", "splash", "pallas"],
)
def test_every_product_of_a_loss_and_its_gradient_is_as_exact_as_the_dtype(monkeypatch, fields, platform, chunk):
    monkeypatch.setattr(xla, "CHUNK", chunk)
    with choice.platform(platform, interpret=True) if platform else contextlib.nullcontext():
        assert of_gradient(fields) == {"HIGHEST, HIGHEST"}
        if platform != "gpu":
            # A kernel of the TPU refuses any other for bfloat16.
            assert of_gradient(fields | {"training.dtype": "bfloat16"}) == {"DEFAULT, DEFAULT"}


def test_a_router_and_a_projected_residual_multiply_float32_in_a_bfloat16_model():
    fields = {"patching.kind": "learned", "model.smoothing": True, "model.decoder.residual": "projected"}
    bfloat16 = {"training.dtype": "bfloat16", "training.gradient_dtype": "bfloat16"}
    with sharding.summing("bfloat16"):
        assert of_gradient(fields | bfloat16) == {"DEFAULT, DEFAULT", "HIGHEST, HIGHEST"}
    assert of_gradient(fields) == {"HIGHEST, HIGHEST"}


def test_the_step_of_a_trainer_and_a_forward_pass_multiply_so_whatever_the_default_of_jax():
    config = tiny.config(LAYERS)
    trainer = step.Trainer(config, mesh_lib.make(config))
    definition, weights = weights_lib.abstract(config)
    tokens = jax.ShapeDtypeStruct((1, tiny.WINDOW), jnp.int32)
    with jax.default_matmul_precision("bfloat16"):
        with jax.set_mesh(trainer.mesh):
            lowered = trainer._step.lower(trainer.abstract_state(), trainer.batch, trainer.settings)
        assert precisions(lowered) == {"HIGHEST, HIGHEST"}
        forward = jax.jit(lambda w, tokens_BL: weights_lib.merge(definition, w)(tokens_BL).logits_BLV)
        text = forward.lower(weights, tokens).as_text()
    assert "dot_general" in text and text.count("dot_general") == text.count("precision = [HIGHEST, HIGHEST]")
