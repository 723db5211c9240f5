"""Steps of learned patches and of states come out alike on meshes and in parts, as `test_step` has it of others."""

import functools

import jax
import pytest

from tests import tiny
from tests.training.stepping import close, run

# A budget that refuses, and a target that moves.
LEARNED = {
    "patching.kind": "learned",
    "patching.capacity": 0.4,
    "patching.ratio_weight": 0.5,
    "patching.curriculum_steps": 4,
    "model.smoothing": True,
    "model.pooling.kind": "last",
    "model.decoder.residual": "projected",
    "optimizer.encoder_scale": 2.0,
}


def learned_step(*fields):
    """(state, sums) after two steps of learned patches, whose target moves."""
    made = run(*LEARNED.items(), *fields)
    state = jax.device_put(learned_state(), made.trainer.shardings)
    for index in range(2):
        state, sums = made.advance(state, index)
    return jax.device_get((state, sums))


@functools.cache
def learned_state():
    made = run(*LEARNED.items())
    w = jax.device_get(tiny.weights(made.trainer.config))
    return jax.device_get(made.trainer.init()) | w


@pytest.mark.parametrize(
    "fields",
    [(("training.accumulation", 4),), (("mesh.data", 2), ("mesh.fsdp", 2), ("mesh.sequence", 2))],
    ids=["accumulated", "meshed"],
)
def test_learned_patches_depend_neither_on_parts_nor_on_the_mesh(fields):
    """The ratio loss least of all, which is each document's own."""
    wanted, wanted_sums = learned_step()
    got, sums = learned_step(*fields)
    assert 0 < wanted_sums["commits"] < wanted_sums["boundaries"] < wanted_sums["positions"]
    close(sums, wanted_sums, 1e-4)
    close(got["params"], wanted["params"], 2e-4)


def test_a_step_of_states_does_not_depend_on_the_mesh():
    """Commits and scratchpads of a row lie on two devices, and so do its bytes."""
    kinds = {"model.encoder.kind": "ssm", "model.trunk.kind": "ssm", "model.trunk.kv_heads": 0}
    kinds |= {"model.trunk.layers": 1, "model.decoder.layers": 0, "model.entropy_head.weight": 0.0}
    sizes = {"mesh.data": 2, "mesh.tensor": 2, "mesh.sequence": 2}
    one, many = run(*kinds.items()), run(*(kinds | sizes).items())
    start = jax.device_get(one.trainer.init())
    (wanted, wanted_sums), (got, sums) = (
        made.advance(jax.device_put(start, made.trainer.shardings)) for made in (one, many)
    )
    close(sums, wanted_sums, 1e-4)
    close(got["params"], wanted["params"], 2e-4)
