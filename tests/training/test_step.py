import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from scratchpatch.model import weights
from scratchpatch.parallel import mesh
from scratchpatch.training import loss
from scratchpatch.training.step import THRESHOLD_RATE, Trainer
from scratchpatch.vocabulary import PAD
from tests import tiny

# Stride decides from no float, so meshes cannot round their way to another layout.
FIELDS = {"trigger.kind": "stride", "trigger.stride": 2}
ROWS_BM = tiny.batch(rows=8)


class Run:
    """A trainer and its compiled step, on the devices that the config's mesh takes."""

    def __init__(self, fields):
        config = tiny.config({**FIELDS, **fields})
        self.trainer = Trainer(config, mesh.make(config))
        self.step = self.trainer.compile(tiny.QUICK)

    def advance(self, state, index=0, rows_BM=ROWS_BM):
        return self.step(state, self.trainer.place(rows_BM), jnp.int32(index))


@functools.cache
def run(*fields) -> Run:
    return Run(dict(fields))


def fresh(made: Run):
    """A state on the mesh of `made`, from weights that every mesh shares."""
    return jax.device_put(state0(), made.trainer.shardings)


@functools.cache
def state0():
    return jax.device_get(run().trainer.init())


def close(got, wanted, tolerance=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=10 * tolerance, atol=tolerance), got, wanted)


def test_a_step_is_adamw_on_the_gradient_of_the_loss():
    made = run()
    state, sums = made.advance(fresh(made))
    params, thresholds = state0()["params"], state0()["thresholds"]
    targets = loss.targets_of(ROWS_BM)
    assert float(sums["targets"]) == targets == (ROWS_BM[:, 1:] != PAD).sum()

    definition = made.trainer.definition
    value = lambda p: loss.loss(p, {"thresholds": thresholds}, definition, ROWS_BM, targets, 1.0)  # noqa: E731

    def update(params):
        gradient, (total, _) = jax.grad(value, has_aux=True)(params)
        updates, _ = made.trainer.optimizer.update(gradient, made.trainer.optimizer.init(params), params)
        return optax.apply_updates(params, updates), optax.global_norm(gradient), total

    wanted, norm, total = jax.jit(update, compiler_options=tiny.QUICK)(params)
    assert float(sums["gradient_norm"]) == pytest.approx(float(norm), rel=1e-4)
    for k, v in total.items():
        assert float(sums[k]) == pytest.approx(float(v), rel=1e-5), k
    # A hundredth of an update: AdamW makes as much of a gradient near 0, which rounding moves, as of any other.
    close(state["params"], wanted, 5e-6)
    assert int(state["step"]) == 1


def test_the_gradient_is_the_slope_of_the_loss():
    """Central differences along a random direction that climbs; a float32 loss resolves about three digits."""
    params, thresholds, definition = state0()["params"], state0()["thresholds"], run().trainer.definition
    # The main loss alone: the entropy head's stops short of the encoder.
    value = lambda p: loss.loss(p, {"thresholds": thresholds}, definition, ROWS_BM, 1.0, 0.0)[0]  # noqa: E731
    value_and_gradient = jax.jit(jax.value_and_grad(value), compiler_options=tiny.QUICK)
    _, gradient = value_and_gradient(params)
    rng = np.random.default_rng(0)

    def climb(x, g):
        random = rng.normal(size=x.shape) * (x.std() + 0.01)
        return np.where(g == 0, random, np.abs(random) * np.sign(g)).astype(np.float32)

    direction = jax.tree.map(climb, params, gradient)
    moved = lambda h: float(value_and_gradient(jax.tree.map(lambda p, d: p + h * d, params, direction))[0])  # noqa: E731
    slope = (moved(1e-3) - moved(-1e-3)) / 2e-3
    inner = sum(
        float((g * d).sum()) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    assert slope == pytest.approx(inner, rel=0.01)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_gives_the_same_update(parts):
    whole, split = run(), run(("training.accumulation", parts))
    wanted, wanted_sums = whole.advance(fresh(whole))
    got, sums = split.advance(fresh(split))
    close(sums, wanted_sums)
    close(got["params"], wanted["params"], 2e-5)


MESHES = [
    {"slice": 2},
    {"data": 8},
    {"fsdp": 2},
    {"tensor": 2},
    {"sequence": 4},
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"slice": 2, "fsdp": 2, "sequence": 2},
    {"tensor": 2, "sequence": 2},
]


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_steps_do_not_depend_on_the_mesh(sizes):
    one, many = run(), run(*((f"mesh.{axis}", size) for axis, size in sizes.items()))
    assert many.trainer.mesh.size == np.prod(list(sizes.values()))
    wanted, got = fresh(one), fresh(many)
    for i in range(2):
        wanted, wanted_sums = one.advance(wanted, i)
        got, sums = many.advance(got, i)
        close(sums, wanted_sums, 1e-4)
    # Adam divides by the gradient's own size, which turns rounding of small ones into steps.
    close(got["params"], wanted["params"], 2e-4)


def test_initialisation_does_not_depend_on_the_mesh():
    config = tiny.config({**FIELDS, "mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2})
    state = Trainer(config, mesh.make(config)).init()
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), state0())
    kernel = state["params"]["trunk"]["stack"]["block"]["ffn"]["up"]["kernel"]
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size


def test_a_step_that_is_not_finite_freezes_the_state_and_so_do_those_after_it():
    made = run()
    good = state0()
    decoder = {**good["params"]["decoder"], "null": np.full(32, np.nan, np.float32)}
    bad = {**good, "params": {**good["params"], "decoder": decoder}}
    state, sums = made.advance(jax.device_put(bad, made.trainer.shardings), 0)
    assert not np.isfinite(float(sums["nats"]))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), bad)
    assert int(state["step"]) == 0

    # The loop dispatches step 1 before it has read step 0.
    state, sums = made.advance(fresh(made), 1)
    assert np.isfinite(float(sums["nats"]))
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), state0())


def test_the_state_is_donated():
    made = run()
    old = fresh(made)
    made.advance(old)
    assert all(x.is_deleted() for x in jax.tree.leaves(old["params"]))


def test_a_batch_of_pad_alone_leaves_everything_finite():
    made = run()
    state, sums = made.advance(fresh(made), 0, np.full_like(ROWS_BM, PAD))
    assert float(sums["targets"]) == float(sums["nats"]) == float(sums["gradient_norm"]) == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_only_a_controller_moves_its_threshold():
    made = run(("trigger.kind", "entropy"), ("trigger.gain", 0.02), ("trigger.threshold", 5.0))
    long_BM = np.stack([tiny.pack(np.random.default_rng(r), [99], tiny.WINDOW + 1) for r in range(8)])
    thresholds = {"patching_threshold": np.float32(np.inf), "trigger_threshold": np.float32(5.0)}
    before = jax.device_put({**state0(), "thresholds": thresholds}, made.trainer.shardings)
    state, sums = made.advance(before, 0, long_BM)
    new = {k: float(v) for k, v in state["thresholds"].items()}
    end = float(sums["trigger_threshold"])
    # A fresh model is uncertain everywhere: 64 bytes fire less those that commit, where 16 were wanted.
    assert end > 6 and new["trigger_threshold"] == pytest.approx(5.0 + THRESHOLD_RATE * (end - 5.0))
    assert new["patching_threshold"] == np.inf


def test_state_can_be_described_without_computing_it():
    made = run()
    shapes = made.trainer.abstract_state()
    jax.tree.map(lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)), shapes, state0())
    moments = jax.tree.leaves(shapes["optimizer"])
    assert len(moments) > 2 * len(jax.tree.leaves(weights.abstract(made.trainer.config)[1]["params"]))
