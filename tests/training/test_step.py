"""The train step: its gradient, its update, what it skips, and that neither mesh nor accumulation changes it.

Legend: B rows, L positions, M = L + 1 tokens.
"""

import functools

import jax
import numpy as np
import optax
import pytest

from scratchpatch.distributed import mesh
from scratchpatch.errors import UserError
from scratchpatch.model import loss, weights
from scratchpatch.training import optimizer
from scratchpatch.training.step import MEAN_LEAST, SKIPPED, Trainer
from scratchpatch.vocabulary import BYTES
from tests import tiny
from tests.patching import reference
from tests.training.stepping import FIELDS, ROWS_BM, Run, close, fresh, run, state0

# Both controllers, and a bound on the gradient that bites.
CONTROLLED = {
    "model.entropy_head.layers": 0,
    "patching.kind": "entropy",
    "patching.gain": 0.05,
    "trigger.kind": "entropy",
    "trigger.gain": 0.02,
    "optimizer.clip_norm": 0.01,
}


def test_a_step_is_adamw_on_the_gradient_of_the_loss():
    made = run()
    state, sums = made.advance(fresh(made))
    params, thresholds = state0()["params"], state0()["thresholds"]
    targets = loss.count_targets(ROWS_BM, BYTES)
    assert float(sums["targets"]) == targets == (ROWS_BM[:, 1:] != BYTES.pad).sum()

    definition = made.trainer.definition

    def value(params):
        return loss.loss(params, {"thresholds": thresholds}, definition, ROWS_BM, targets, 1.0)

    def update(params):
        gradient, total = jax.grad(value, has_aux=True)(params)
        adamw = optimizer.make(optimizer.Settings(*optimizer.settings(made.trainer.config, 0)))
        updates, _ = adamw.update(gradient, adamw.init(params), params)
        return optax.apply_updates(params, updates), optax.global_norm(gradient), total

    wanted, norm, total = jax.jit(update)(params)
    assert float(sums["gradient_norm"]) == pytest.approx(float(norm), rel=1e-4)
    for k, v in total.items():
        v = v / total["documents"] if k.endswith("_threshold") else v  # a step says their mean
        assert float(sums[k]) == pytest.approx(float(v), rel=1e-5), k
    # A hundredth of an update: AdamW makes as much of a gradient near 0, which rounding moves, as of any other.
    close(state["params"], wanted, 5e-6)
    assert int(state["step"]) == 1


def test_the_gradient_is_the_slope_of_the_loss():
    """Central differences along a random direction that climbs; a float32 loss resolves about three digits."""
    params, thresholds, definition = state0()["params"], state0()["thresholds"], run().trainer.definition

    def value(params):
        # The main loss alone: the entropy head's stops short of the encoder.
        return loss.loss(params, {"thresholds": thresholds}, definition, ROWS_BM, 1.0, 0.0)[0]

    value_and_gradient = jax.jit(jax.value_and_grad(value))
    _, gradient = value_and_gradient(params)
    rng = np.random.default_rng(0)

    def climb(x, g):
        random = rng.normal(size=x.shape) * (x.std() + 0.01)
        return np.where(g == 0, random, np.abs(random) * np.sign(g)).astype(np.float32)

    direction = jax.tree.map(climb, params, gradient)
    ahead, behind = (jax.tree.map(lambda p, d, h=h: p + h * d, params, direction) for h in (1e-3, -1e-3))
    slope = float(value_and_gradient(ahead)[0] - value_and_gradient(behind)[0]) / 2e-3
    inner = sum(
        float((g * d).sum()) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
    )
    assert slope == pytest.approx(inner, rel=0.01)


def controlled_rows():
    """int32 [8, M]: documents that end at other thresholds, in as many rows as parts would have them differ."""
    rng = np.random.default_rng(5)
    length = tiny.WINDOW + 1
    rows = [tiny.pack(rng, [99], length) for _ in range(3)]
    # Several documents; one that PAD follows before its controller has moved; no document; a row begins inside one.
    rows += [tiny.pack(rng, [20, 30], length), tiny.pack(rng, [99], length, pad=12)]
    rows += [np.full(length, BYTES.pad, np.int32)]
    rows += [tiny.pack(rng, [99], length, inside=True), tiny.pack(rng, [66], length, pad=3)]
    return np.stack(rows)


@functools.cache
def controlled_state():
    """(state, entropies of the rows): weights whose entropies differ, and thresholds that no rounding crosses."""
    config = tiny.config(CONTROLLED)
    rows_BM = controlled_rows()
    w = jax.device_get(tiny.weights(config))
    entropy_BL = np.asarray(tiny.forward(config)(w, rows_BM[:, :-1]).entropy_BL)

    def amid(share):
        near = np.sort(entropy_BL[rows_BM[:, :-1] != BYTES.pad])
        near = near[int((share - 0.1) * len(near)) : int((share + 0.1) * len(near))]
        widest = np.diff(near).argmax()
        return np.float32((near[widest] + near[widest + 1]) / 2)

    thresholds = {"patching_threshold": amid(0.8), "trigger_threshold": amid(0.6)}
    moments = jax.device_get(optimizer.init(w["params"]))
    return state0() | w | {"thresholds": thresholds, "optimizer": moments}, entropy_BL


@functools.cache
def controlled_step(*fields):
    """(state, sums) after a step from `controlled_state`."""
    made = run(*CONTROLLED.items(), *fields)
    state = jax.device_put(controlled_state()[0], made.trainer.shardings)
    return jax.device_get(made.advance(state, 0, controlled_rows()))


@pytest.mark.parametrize("parts", [1, 4])
def test_thresholds_go_a_tenth_of_the_way_to_the_mean_of_where_documents_ended(parts):
    before, entropy_BL = controlled_state()
    after, sums = controlled_step(("training.accumulation", parts))
    starts = {name: float(before["thresholds"][f"{name}_threshold"]) for name in ("patching", "trigger")}
    config, ends = tiny.config(CONTROLLED), {"patching": [], "trigger": []}
    for tokens, entropy in zip(controlled_rows()[:, :-1].tolist(), entropy_BL, strict=True):
        documents = reference.decide(config, tokens, entropy, **starts)
        for document, (a, b) in zip(documents, reference.spans(tokens), strict=True):
            if any(token != BYTES.pad for token in tokens[a:b]):
                ends["patching"].append(document.patching.threshold)
                ends["trigger"].append(document.trigger.threshold)
    assert sums["documents"] == len(ends["patching"]) == 10
    for name, start in starts.items():
        # Rows, and the parts that they are dealt to, end apart: means of means, or of some rows, would differ.
        assert len(set(ends[name])) > 3 and start in ends[name]
        assert abs(np.mean(ends[name]) - start) > 0.02 * start
        assert sums[f"{name}_threshold"] == pytest.approx(np.mean(ends[name]), rel=1e-5)
        wanted = start + 0.1 * (np.mean(ends[name]) - start)
        assert after["thresholds"][f"{name}_threshold"] == pytest.approx(wanted, rel=1e-6)


def test_accumulation_gives_the_same_update_clipped_once():
    wanted, wanted_sums = controlled_step(("training.accumulation", 1))
    got, sums = controlled_step(("training.accumulation", 4))
    close(sums, wanted_sums)
    close(got["params"], wanted["params"], 2e-5)
    # After one step the first moment is a tenth of the clipped gradient. Each part's own is above the bound as well.
    assert wanted_sums["gradient_norm"] > 8 * 0.01
    moment, wanted_moment = (optax.tree_utils.tree_get(state["optimizer"], "mu") for state in (got, wanted))
    assert float(optax.global_norm(moment)) == pytest.approx(0.1 * 0.01, rel=1e-4)
    close(jax.tree.map(lambda x: x / 0.001, moment), jax.tree.map(lambda x: x / 0.001, wanted_moment))


def test_controllers_do_not_depend_on_the_mesh():
    wanted, wanted_sums = controlled_step(("training.accumulation", 1))
    got, sums = controlled_step(("mesh.data", 2), ("mesh.fsdp", 2), ("mesh.sequence", 2))
    close(sums, wanted_sums, 1e-4)
    close(got["thresholds"], wanted["thresholds"], 1e-6)
    close(got["params"], wanted["params"], 2e-4)


# Every axis, and every two of them that meet in an array.
MESHES = [
    {"data": 8},
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"slice": 2, "fsdp": 2, "sequence": 2},
    {"tensor": 2, "sequence": 4},
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


def spoilt(state, value):
    """The state with a parameter of the decoder that makes the loss, or its gradient alone, not finite."""
    decoder = {**state["params"]["decoder"], "null": np.full(32, value, np.float32)}
    return {**state, "params": {**state["params"], "decoder": decoder}}


def test_a_step_that_is_not_finite_changes_nothing_but_the_step_and_the_next_is_taken():
    made = run()
    bad = spoilt(state0(), np.nan)
    state, sums = made.advance(jax.device_put(bad, made.trainer.shardings), 0)
    assert not np.isfinite(float(sums["nats"])) and int(sums["skipped"]) == 1
    assert int(state["step"]) == 1
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(state), bad | {"step": np.int32(1)})
    # As if it had never been, but for the step: Adam has seen one gradient, and the learning rate is that of step 1.
    state, sums = made.advance(jax.device_put(state0() | {"step": np.int32(1)}, made.trainer.shardings), 1)
    assert int(sums["skipped"]) == 0 and int(state["step"]) == 2
    assert int(state["optimizer"][1][0].count) == int(state["means"]["steps"]) == 1


def test_spikes_are_skipped_where_the_settings_say_so():
    made = run()

    def advance(fields, steps=MEAN_LEAST, **means):
        taken = tiny.config({**FIELDS, **fields})
        means = {k: np.float32(means.get(k, 1e6)) for k in ("loss", "norm")}
        state = state0() | {"means": means | {"steps": np.int32(steps)}}
        batch = made.trainer.place(ROWS_BM)
        settings = made.trainer.place_settings(optimizer.settings(taken, 1))
        return made.step(jax.device_put(state, made.trainer.shardings), batch, settings)

    for name, number in (("loss", 3), ("norm", 4)):
        fields = {f"training.{name}_spike": 2.0}
        state, sums = advance(fields, **{name: 0.01})
        assert int(sums["skipped"]) == number and f"{name}_spike" in SKIPPED[number]
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state["params"]), state0()["params"])
        assert int(state["means"]["steps"]) == MEAN_LEAST and int(state["step"]) == 1
        # Off, below the factor, or of means of too few steps to judge by.
        for found in (advance({}, **{name: 0.01}), advance(fields), advance(fields, MEAN_LEAST - 1, **{name: 0.01})):
            assert int(found[1]["skipped"]) == 0
    state, sums = advance({}, 49, loss=1.0, norm=2.0)
    loss, norm = float(sums["nats"] / sums["targets"]), float(sums["gradient_norm"])
    assert float(state["means"]["loss"]) == pytest.approx(1 + (loss - 1) / 50)
    assert float(state["means"]["norm"]) == pytest.approx(2 + (norm - 2) / 50)


def test_settings_of_the_optimizer_are_no_part_of_the_program():
    """One compiled step serves all of them, and the state has the same arrays whatever they are."""
    fields = {
        "optimizer.warmup_steps": 0,
        "optimizer.weight_decay": 0.0,
        "optimizer.b1": 0.5,
        "optimizer.b2": 0.5,
        "optimizer.eps": 1.0,
        "optimizer.clip_norm": 0.0,
        "optimizer.learning_rate": 1.0,
    }
    made, other = run(), tiny.config(FIELDS | fields)
    states = [made.trainer.abstract_state(), Trainer(other, mesh.make(other)).abstract_state()]
    shapes = [jax.tree.map(lambda x: x.shape, state) for state in states]
    assert shapes[0] == shapes[1]
    settings = made.trainer.place_settings(optimizer.settings(other, 0))
    state, sums = made.step(fresh(made), made.trainer.place(ROWS_BM), settings)
    adam, (params, new) = state["optimizer"][1][0], (state0()["params"], jax.device_get(state["params"]))
    # The first step of Adam, from its own first moment: no clipping, no decay.
    gradient = jax.tree.map(lambda x: np.asarray(x) / 0.5, adam.mu)
    wanted = jax.tree.map(lambda p, g: p - g / (np.abs(g) + 1.0), params, gradient)
    close(new, wanted, 1e-6)
    assert float(sums["gradient_norm"]) == pytest.approx(float(optax.global_norm(gradient)), rel=1e-4)


def test_a_finite_loss_whose_gradient_is_not_changes_nothing():
    """Logits of usual size, from a norm's scale of 1e30 and a matrix of 1e-30: the gradient's norm overflows."""
    made, good = run(), state0()
    logits = good["params"]["decoder"]["logits"]
    logits = {
        "norm": {"scale": logits["norm"]["scale"] * np.float32(1e30)},
        "projection": {"kernel": logits["projection"]["kernel"] * np.float32(1e-30)},
    }
    decoder = {**good["params"]["decoder"], "logits": logits}
    bad = {**good, "params": {**good["params"], "decoder": decoder}}
    state, sums = made.advance(jax.device_put(bad, made.trainer.shardings), 0)
    assert np.isfinite(float(sums["nats"])) and not np.isfinite(float(sums["gradient_norm"]))
    assert int(sums["skipped"]) == 2
    for part in ("params", "optimizer", "thresholds"):
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(state[part]), bad[part])


def test_a_cpu_offloads_nothing_and_says_what_to_do():
    config = tiny.config({"training.remat": "offload"})
    with pytest.raises(UserError, match="'offload' needs a TPU or a GPU, and this runs on cpu: set it to 'ffn'"):
        Trainer(config, mesh.make(config))


def test_the_state_is_donated():
    made = run()
    old = fresh(made)
    made.advance(old)
    assert all(x.is_deleted() for x in jax.tree.leaves(old["params"]))


def test_a_batch_of_pad_alone_leaves_everything_finite():
    made = run()
    state, sums = made.advance(fresh(made), 0, np.full_like(ROWS_BM, BYTES.pad))
    assert float(sums["targets"]) == float(sums["nats"]) == float(sums["gradient_norm"]) == 0
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))


def test_a_batch_of_pad_alone_moves_no_threshold():
    made, (before, _) = run(*CONTROLLED.items(), ("training.accumulation", 1)), controlled_state()
    state, sums = made.advance(jax.device_put(before, made.trainer.shardings), 0, np.full_like(ROWS_BM, BYTES.pad))
    assert float(sums["documents"]) == 0
    assert jax.device_get(state["thresholds"]) == before["thresholds"]


def test_only_a_controller_moves_its_threshold():
    made = run()  # stride and fixed patches read none
    thresholds = {"patching_threshold": np.float32(np.inf), "trigger_threshold": np.float32(5.0)}
    before = jax.device_put({**state0(), "thresholds": thresholds}, made.trainer.shardings)
    state, sums = made.advance(before)
    assert jax.device_get(state["thresholds"]) == thresholds
    assert float(sums["trigger_threshold"]) == pytest.approx(5.0, rel=1e-6)


def test_state_can_be_described_without_computing_it():
    made = run()
    shapes = made.trainer.abstract_state()
    jax.tree.map(lambda a, b: np.testing.assert_equal((a.shape, a.dtype), (b.shape, b.dtype)), shapes, state0())
    moments = jax.tree.leaves(shapes["optimizer"])
    assert len(moments) > 2 * len(jax.tree.leaves(weights.abstract(made.trainer.config)[1]["params"]))


LEARNS = {"model.benefit.width": 4, "model.benefit.table": True, "trigger.kind": "learned", "trigger.gain": 0.02}
LEARNS |= {"model.encoder.layers": 0, "model.decoder.layers": 0, "model.benefit.share": 0.5}


def test_a_step_measures_what_scratchpads_save_and_carries_the_sums():
    made = run(*LEARNS.items())
    state = made.trainer.init()
    before = jax.device_get(state["params"]["benefit_head"])
    state, sums = made.advance(state)
    sums, got = jax.device_get(sums), jax.device_get(state["statistics"])
    assert "benefit_pairs" not in sums and sums["benefit_count"] > 20
    # Half of the rows, and of these a quarter of the positions that can be scratchpads.
    assert sums["benefit_count"] < sums["positions"] / 2 / 4 + 8
    moments = got["benefit_head"]["moments"]
    wanted = [sums[name] for name in ("benefit_count", "learned_sum", "learned_squares")]
    np.testing.assert_allclose(moments, wanted, rtol=1e-6)
    table = got["dependence"]
    assert table["count"].sum() == sums["benefit_count"]
    assert table["nats"].sum() == pytest.approx(float(sums["benefit"]), rel=1e-4, abs=1e-4)
    assert (table["count"] > 0).sum() > 10
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), before, jax.device_get(state["params"]["benefit_head"]))
    assert min(jax.tree.leaves(moved)) > 0
    _, again = made.advance(state, 1)
    assert np.isfinite([float(x) for x in jax.device_get(again).values()]).all()


def test_what_is_measured_does_not_depend_on_the_mesh():
    """Three of eight rows are measured: on four devices one more, which does not count."""
    one, spread = (Run(LEARNS | {"mesh.data": n, "mesh.fsdp": n, "model.benefit.share": 0.33}) for n in (1, 2))
    weights = jax.device_get(one.trainer.init())
    states = [made.advance(jax.device_put(weights, made.trainer.shardings))[0] for made in (one, spread)]
    close(*(jax.device_get(state["statistics"]) for state in states), 1e-4)
