import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch.model import weights
from scratchpatch.training import optimizer
from tests import tiny


def test_schedule_warms_up_linearly_and_falls_as_a_cosine():
    rate = optimizer.schedule(
        tiny.config(
            {
                "training.steps": 100,
                "optimizer.warmup_steps": 10,
                "optimizer.learning_rate": 1.0,
                "optimizer.final_ratio": 0.2,
            }
        )
    )
    assert float(rate(0)) == pytest.approx(0.1)  # the first step moves already
    assert float(rate(5)) == pytest.approx(0.55)
    assert float(rate(10)) == pytest.approx(1.0)
    assert float(rate(55)) == pytest.approx(0.6)
    assert float(rate(100)) == pytest.approx(0.2)
    assert float(rate(1000)) == pytest.approx(0.2)


@pytest.mark.parametrize("steps, warmup", [(0, 0), (0, 50), (1, 0), (3, 50), (50, 50)])
def test_schedule_of_runs_shorter_than_the_warmup_is_finite(steps, warmup):
    rate = optimizer.schedule(tiny.config({"training.steps": steps, "optimizer.warmup_steps": warmup}))
    rates = np.array([rate(i) for i in range(max(steps, 1) + 2)])
    assert np.isfinite(rates).all() and (rates >= 0).all() and rates.max() <= 2e-3 * 1.001


def test_decay_falls_on_projections_alone():
    _, abstract = weights.abstract(tiny.config({"model.encoder.ngrams": (2, 3), "model.pooling.kind": "max_query"}))
    decayed = {}
    for path, decays in jax.tree_util.tree_leaves_with_path(optimizer.decayed(abstract["params"])):
        name = "/".join(part.key for part in path)
        assert decays == (not name.endswith(("scale", "embedding", "null"))), name
        decayed[name] = decays
    assert not decayed["encoder/embedding/embedding"] and not decayed["encoder/ngrams/embedding/embedding"]
    assert decayed["pooling/queries/kernel"] and not decayed["pooling/query_norm/scale"]


def test_one_update_clips_by_the_global_norm_and_decays_kernels():
    params = {"a": {"kernel": jnp.full((2,), 10.0)}, "norm": {"scale": jnp.full((2,), 10.0)}}
    fields = {"optimizer.learning_rate": 0.1, "optimizer.warmup_steps": 0, "optimizer.eps": 1.0}
    # eps 1 lets the update depend on the size of the gradient, and so on clipping.
    made = optimizer.make(tiny.config({**fields, "optimizer.clip_norm": 0.5, "optimizer.weight_decay": 0.3}))
    gradient = jax.tree.map(lambda x: jnp.full_like(x, 100.0), params)
    updates, _ = made.update(gradient, made.init(params), params)
    clipped = 0.5 / 2  # four equal entries of a vector of norm 0.5
    adam = clipped / (clipped + 1.0)
    np.testing.assert_allclose(updates["norm"]["scale"], -0.1 * adam, rtol=1e-4)
    np.testing.assert_allclose(updates["a"]["kernel"], -0.1 * (adam + 0.3 * 10.0), rtol=1e-4)


def test_clip_norm_0_does_not_clip():
    params = {"kernel": jnp.ones((2,))}
    fields = {
        "optimizer.eps": 1.0,
        "optimizer.weight_decay": 0.0,
        "optimizer.warmup_steps": 0,
        "optimizer.clip_norm": 0.0,
    }
    made = optimizer.make(tiny.config(fields))
    updates, _ = made.update({"kernel": jnp.full((2,), 99.0)}, made.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -2e-3 * 0.99, rtol=1e-4)
