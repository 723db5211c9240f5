import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from scratchpatch.model import layers
from scratchpatch.model.heads import entropy


def test_rope_scores_depend_on_the_distance_alone():
    rng = np.random.default_rng(0)
    q, k = (jnp.asarray(rng.normal(size=(1, 1, 1, 8)), jnp.float32) for _ in range(2))

    def score(m, n):
        return float((layers.rope(q, jnp.array([[m]]), 100.0) * layers.rope(k, jnp.array([[n]]), 100.0)).sum())

    assert score(3, 7) == pytest.approx(score(103, 107), rel=1e-3)
    assert score(3, 7) != pytest.approx(score(3, 8), rel=1e-2)
    np.testing.assert_allclose(layers.rope(q, jnp.array([[0]]), 100.0), q)


@pytest.mark.parametrize(
    "d, multiplier, width", [(16, 8 / 3, 48), (512, 8 / 3, 1376), (256, 8 / 3, 688), (32, 4, 128), (6, 8 / 3, 16)]
)
def test_ffn_width_is_the_next_multiple_of_16(d, multiplier, width):
    assert layers.ffn_width(d, multiplier) == width


def test_linear_starts_at_the_scale_of_its_input():
    kernel = layers.linear(256, 128, ("width", "local_inner"), jnp.float32, nnx.Rngs(params=0), 0.5).kernel.get_value()
    assert float(kernel.std()) == pytest.approx(0.5 / 16, rel=0.03)


def test_entropy_in_nats():
    even, sure = jnp.zeros((1, 1, 264)).at[..., 257:].set(-1e30), jnp.full((1, 1, 264), -1e30).at[..., 3].set(0.0)
    assert float(entropy(even)[0, 0]) == pytest.approx(np.log(257), rel=1e-5)
    assert float(entropy(sure)[0, 0]) == 0.0


def test_initial_weights_have_the_deviations_that_the_docstrings_name():
    table = layers.embedding(400, 100, 0.5, nnx.Rngs(params=0)).embedding.get_value()
    assert float(table.std()) == pytest.approx(0.88 * 0.5, rel=0.01) and float(abs(table).max()) <= 2 * 0.5
    made = layers.linear(400, 100, ("width", "local_inner"), jnp.float32, nnx.Rngs(params=0), scale=0.5)
    kernel = made.kernel.get_value()
    assert float(kernel.std()) == pytest.approx(0.5 / 20, rel=0.01)
