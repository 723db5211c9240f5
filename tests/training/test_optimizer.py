import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch.model import weights
from scratchpatch.training import optimizer
from tests import tiny


def rates(steps, warmup, **fields):
    """The learning rate of every step, and of one after the last."""
    named = {"training.steps": steps, "optimizer.warmup_steps": warmup}
    named |= {f"optimizer.{name}": value for name, value in fields.items()}
    rate = optimizer.schedule(tiny.config(named))
    return np.array([rate(i) for i in range(steps + 1)])


def test_cosine_warms_up_along_a_line_and_falls_to_exactly_its_share():
    rate = rates(100, 10, learning_rate=1.0, final_ratio=0.2)
    assert rate[0] == pytest.approx(0.1)  # the first step moves already
    assert rate[5] == pytest.approx(0.55)
    assert rate[10] == 1.0
    middle = 0.6 + 0.4 * np.cos(np.pi * (54 - 10) / 89)
    assert rate[54] == pytest.approx(middle) and (np.diff(rate[10:100]) < 0).all()
    assert rate[99] == rate[100] == 0.2
    # Of ten steps the last one gets what is named, not 0.122.
    assert rates(10, 0, learning_rate=1.0, final_ratio=0.1)[9] == 0.1


def test_wsd_stays_at_the_peak_and_falls_along_a_line_over_its_share():
    rate = rates(100, 10, schedule="wsd", decay_share=0.2, learning_rate=1.0, final_ratio=0.1)
    np.testing.assert_allclose(rate[:11], np.linspace(0.1, 1.0, 11))
    assert (rate[10:80] == 1.0).all()
    np.testing.assert_allclose(rate[79:100], np.linspace(1.0, 0.1, 21))
    assert rate[99] == 0.1
    assert (rates(100, 10, schedule="wsd", decay_share=0.0)[10:] == 2e-3).all()
    # All that the warm-up leaves.
    falling = rates(11, 5, schedule="wsd", decay_share=1.0, learning_rate=1.0)[5:11]
    np.testing.assert_allclose(falling, np.linspace(1.0, 0.1, 6))


def test_constant_stays_at_the_peak():
    rate = rates(30, 10, schedule="constant", learning_rate=1.0)
    assert (rate[10:] == 1.0).all() and rate[0] == pytest.approx(0.1)


@pytest.mark.parametrize("schedule", ("cosine", "wsd", "constant"))
@pytest.mark.parametrize("steps, warmup", [(0, 0), (0, 50), (1, 0), (3, 50), (50, 50)])
def test_schedules_of_runs_shorter_than_the_warmup_are_finite(schedule, steps, warmup):
    found = rates(steps, warmup, schedule=schedule)
    assert np.isfinite(found).all() and (found >= 0).all() and found.max() <= 2e-3
    if schedule != "constant":
        assert found[-1] == 2e-4


def made(fields):
    """The optimizer at the first step."""
    return optimizer.make(optimizer.Settings(*optimizer.settings(tiny.config(fields), 0)))


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
    adamw = made({**fields, "optimizer.clip_norm": 0.5, "optimizer.weight_decay": 0.3})
    gradient = jax.tree.map(lambda x: jnp.full_like(x, 100.0), params)
    updates, _ = adamw.update(gradient, adamw.init(params), params)
    clipped = 0.5 / 2  # four equal entries of a vector of norm 0.5
    adam = clipped / (clipped + 1.0)
    np.testing.assert_allclose(updates["norm"]["scale"], -0.1 * adam, rtol=1e-4)
    np.testing.assert_allclose(updates["a"]["kernel"], -0.1 * (adam + 0.3 * 10.0), rtol=1e-4)


def test_each_tier_has_its_own_learning_rate_and_every_parameter_a_tier():
    learned = {"patching.kind": "learned", "model.benefit.width": 8}
    _, abstract = weights.abstract(tiny.config(learned))
    assert set(abstract["params"]) == set(optimizer.TIERS)
    params = {name: {"kernel": jnp.full((2,), 10.0)} for name in ("encoder", "router", "trunk", "decoder")}
    fields = {"optimizer.learning_rate": 0.1, "optimizer.warmup_steps": 0, "optimizer.weight_decay": 0.5}
    scales = {"encoder": 3.0, "trunk": 0.25, "decoder": 1.0}
    adamw = made(fields | {f"optimizer.{tier}_scale": scale for tier, scale in scales.items()})
    updates, _ = adamw.update(jax.tree.map(jnp.ones_like, params), adamw.init(params), params)
    for name, scale in (scales | {"router": 3.0}).items():
        # Adam's first step is 1; a half of 10 decays.
        np.testing.assert_allclose(updates[name]["kernel"], -0.1 * scale * (1 + 5.0), rtol=1e-4)


def test_a_curriculum_is_a_line_from_its_first_target_to_the_patchifiers():
    fields = {"patching.kind": "learned", "patching.patch_bytes": 6, "patching.curriculum_steps": 8}
    config = tiny.config(fields | {"patching.curriculum_from": 2.0, "patching.capacity": 1.0})
    by_step = optimizer.SettingsByStep(config, [(0, {}), (5, {"optimizer.learning_rate": 1.0})])
    targets = [optimizer.Settings(*by_step.at(index)).patch_bytes for index in range(12)]
    np.testing.assert_allclose(targets, [2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 6, 6, 6])
    assert optimizer.curriculum(tiny.config())(0) == tiny.config().patching.patch_bytes


def test_clip_norm_0_does_not_clip():
    params = {"kernel": jnp.ones((2,))}
    fields = {
        "optimizer.eps": 1.0,
        "optimizer.weight_decay": 0.0,
        "optimizer.warmup_steps": 0,
        "optimizer.clip_norm": 0.0,
    }
    adamw = made(fields)
    updates, _ = adamw.update({"kernel": jnp.full((2,), 99.0)}, adamw.init(params), params)
    np.testing.assert_allclose(updates["kernel"], -2e-3 * 0.99, rtol=1e-4)
