"""Decoding with weights that are spread over devices: what is written is what one device writes."""

import functools

import jax
import numpy as np
import pytest

from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.inference.engine import Engine
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.inference.options import Options
from scratchpatch.model import weights as weights_lib
from tests import tiny

FIELDS = {
    "data.window": 32,
    "model.entropy_head.layers": 0,
    "model.trunk.layers": 1,
    "patching.patch_bytes": 4,
    "patching.max_patch_bytes": 4,
    "trigger.threshold": 4.0,
    "trigger.rate": 0.5,
}
# One more than there are places; their rows end at different times.
PROMPTS = (b"ab", b"", b"import numpy\n", *(b"x" * n for n in range(1, 7)))
MESHES = ({"data": 2, "fsdp": 2, "tensor": 2}, {"fsdp": 4, "sequence": 2})


def write(model, rows: int):
    """The engine, and per prompt (bytes, log-probabilities) of what it writes."""
    engine = Engine(model, rows=rows, ticks=8)
    tickets = [
        engine.submit(prompt, Options(max_bytes=6 + i, temperature=float(i % 2), seed=i))
        for i, prompt in enumerate(PROMPTS)
    ]
    written = {ticket: [] for ticket in tickets}
    while not engine.idle:
        for progress in engine.step():
            written[progress.ticket] += progress.bytes
    return engine, [(bytes(b.value for b in w), [b.log_probability for b in w]) for w in written.values()]


@functools.lru_cache
def alone():
    config = tiny.config(FIELDS)
    return write(LanguageModel(config, tiny.weights(config)), 8)


def shares(tree) -> set[float]:
    """Of the arrays' bytes, how much each device has."""
    leaves = [x for x in jax.tree.leaves(tree) if x.size]
    held = dict.fromkeys(leaves[0].sharding.device_set, 0)
    for x in leaves:
        for shard in x.addressable_shards:
            held[shard.device] += shard.data.nbytes
    return {size / sum(x.nbytes for x in leaves) for size in held.values()}


@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_weights_spread_over_a_mesh_write_the_same_where_they_lie(sizes):
    config = tiny.config(FIELDS | {f"mesh.{axis}": size for axis, size in sizes.items()})
    weights = jax.device_put(tiny.weights(tiny.config(FIELDS)), weights_lib.shardings(config, mesh_lib.make(config)))
    engine, written = write(LanguageModel(config, weights), 8)
    for (bytes_, nats), (expected, expected_nats) in zip(written, alone()[1], strict=True):
        assert bytes_ == expected
        np.testing.assert_allclose(nats, expected_nats, atol=1e-5)
    # A device has its share of the parameters, which no program changes, and of the rows.
    assert shares(engine._parameters) == shares(weights) and max(shares(weights)) < 0.45
    assert shares(engine._board.cache) == {1 / 8}
