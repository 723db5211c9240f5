"""State-space layers in trunk and byte tiers: what a slot reads, the limits of slots, where they start.

Legend: B rows, L byte positions, N slots, D trunk width, Q slots of all rows, T commits before a slot, and itself.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch import config as config_lib, sharding
from scratchpatch.kernels import diagonal
from scratchpatch.model import stack, weights as weights_lib
from scratchpatch.model.steps import Steps
from tests import tiny

STATES = {
    "model.encoder.kind": "ssm",
    "model.trunk.kind": "ssm",
    "model.trunk.kv_heads": 0,
    "model.trunk.final_norm": False,
    "model.decoder.kind": "ssm",
}
TOKENS_BL = tiny.batch(rows=3, length=tiny.WINDOW)


def trunk_of(fields):
    """(config, trunk, pooled_BND drawn at random, layout) of a model of states."""
    made = tiny.config(STATES | fields)
    trunk = weights_lib.merge(weights_lib.abstract(made)[0], tiny.weights(made)).trunk
    layout = tiny.decide(made, TOKENS_BL, np.zeros(TOKENS_BL.shape, np.float32))
    pooled_BND = np.random.default_rng(0).normal(size=(*layout.slots.end_BN.shape, made.model.trunk.d_model))
    return made, trunk, jnp.asarray(pooled_BND, jnp.float32), layout


def by_documents(trunk, x_BTD, fresh_BT):
    """The trunk's layers over plain rows."""

    def mix(system, u_BTe, step):
        return diagonal.mix(system, u_BTe, step, fresh_BT, sharding.TRUNK)

    return trunk.stack(x_BTD, lambda layer, x: layer(x, None, mix))


def test_a_slot_takes_one_step_from_the_state_of_the_commits_before_it():
    fields = {"patching.kind": "whitespace", "trigger.kind": "stride", "trigger.stride": 2}
    _, trunk, pooled_BND, layout = trunk_of(fields)
    got_BND, slots = jax.jit(trunk)(pooled_BND, layout), jax.device_get(layout.slots)
    row_Q, slot_Q = np.nonzero(slots.valid_BN)
    from_Q, to_Q = slots.seen_from_BN[row_Q, slot_Q], slots.seen_to_BN[row_Q, slot_Q]
    assert (slot_Q >= slots.commits).sum() > 10 and (from_Q == to_Q).sum() > 3 and (from_Q > 0).any()
    # Each slot as the last of a row of its own.
    t_T = np.arange((to_Q - from_Q).max() + 1)
    index_QT = np.where(t_T < (to_Q - from_Q)[:, None], from_Q[:, None] + t_T, slot_Q[:, None])
    fresh_QT = jnp.broadcast_to(t_T == 0, index_QT.shape)
    alone_QTD = jax.jit(lambda x, fresh: by_documents(trunk, x, fresh))(pooled_BND[row_Q[:, None], index_QT], fresh_QT)
    wanted_QD = np.asarray(alone_QTD)[np.arange(len(row_Q)), to_Q - from_Q]
    np.testing.assert_allclose(np.asarray(got_BND)[row_Q, slot_Q], wanted_QD, rtol=1e-4, atol=1e-4)


def test_scratchpads_leave_no_trace_in_the_commits():
    fields = {"patching.kind": "whitespace", "trigger.kind": "every", "patching.capacity": 0.5}
    made, trunk, pooled_BND, layout = trunk_of(fields)
    alone = tiny.decide(made, TOKENS_BL, np.zeros(TOKENS_BL.shape, np.float32), scratchpads=False)
    commits = layout.slots.commits
    assert layout.scratchpad_BL.sum() > 50 and alone.slots.end_BN.shape[1] == commits
    run = jax.jit(trunk)
    whole_BND = run(pooled_BND, layout)
    np.testing.assert_allclose(whole_BND[:, :commits], run(pooled_BND[:, :commits], alone), rtol=1e-4, atol=1e-4)
    other_BND = run(pooled_BND.at[:, commits:].add(1.0), layout)
    assert np.array_equal(whole_BND[:, :commits], other_BND[:, :commits])
    assert not np.allclose(whole_BND[:, commits:], other_BND[:, commits:], atol=0.1)


def test_patches_of_one_byte_are_a_recurrence_over_bytes():
    _, trunk, pooled_BND, layout = trunk_of({"patching.kind": "byte", "trigger.kind": "none"})
    rows = layout.rows
    run = jax.jit(lambda x: trunk.stack(x, lambda layer, x: stack.run_window(layer, x, rows, 0, "auto")))
    got, wanted = (np.asarray(x)[TOKENS_BL != tiny.PAD] for x in (jax.jit(trunk)(pooled_BND, layout), run(pooled_BND)))
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("is_complex", (False, True))
def test_states_start_as_the_literature_has_them(is_complex):
    fields = {"model.ssm.complex": is_complex, "model.ssm.state": 3, "model.trunk.d_model": 64}
    mixer = weights_lib.init(tiny.config(STATES | fields), 0)["params"]["trunk"]["stack"]["block"]["mixer"]
    rates_S = np.exp(np.asarray(mixer["decay"]))[0, :, 0]
    np.testing.assert_allclose(rates_S, [0.5] * 3 if is_complex else [1, 2, 3], rtol=1e-6)
    steps = np.log1p(np.exp(np.asarray(mixer["step_bias"])))
    assert 1e-3 * 0.999 < steps.min() < 4e-3 and 0.25 < steps.max() < 1.001
    assert ("frequency" in mixer) == is_complex
    if is_complex:
        np.testing.assert_allclose(np.asarray(mixer["frequency"])[0, :, 0], np.pi * np.arange(3), rtol=1e-6)


def test_decoding_keeps_states_of_one_size():
    made = tiny.config(STATES | {"data.window": 512})
    model = Steps(weights_lib.merge(weights_lib.abstract(made)[0], tiny.weights(made)))
    cache, (s, d) = model.empty(2), (made.model.ssm.state, made.model.trunk.d_model)
    assert [[x.shape for x in jax.tree.leaves(layer)] for layer in cache.trunk] == [[(2, s, d)] * 2] * 2
    assert [x.shape for x in jax.tree.leaves(cache.encoder)] == [(2, s, made.model.d_byte)] * 2
    assert config_lib.slots(made)[0] > 50
