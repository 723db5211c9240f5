"""Compiled steps of tiny models, on one device and on meshes. Legend: B rows, M = L + 1 tokens."""

import functools

import jax
import numpy as np

from scratchpatch.distributed import mesh
from scratchpatch.training import optimizer
from scratchpatch.training.step import Trainer
from tests import tiny

# Stride decides from no float, so meshes cannot round their way to another layout. The layers of a head are those of
# other byte tiers, and would take a quarter of the compilation.
FIELDS = {"trigger.kind": "stride", "trigger.stride": 2, "model.entropy_head.layers": 0}
ROWS_BM = tiny.batch(rows=8)


class Run:
    """A trainer and its compiled step, on the devices that the config's mesh takes."""

    def __init__(self, fields):
        config = tiny.config({**FIELDS, **fields})
        self.trainer = Trainer(config, mesh.make(config))
        self.step = self.trainer.compile()

    def advance(self, state, index=0, rows_BM=ROWS_BM):
        settings = self.trainer.place_settings(optimizer.settings(self.trainer.config, index))
        return self.step(state, self.trainer.place(rows_BM), settings)


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
