"""Pooling by concatenation, by hand: which byte stands where, and which places are empty.

Legend: B rows, L byte positions, N slots, M bytes of a patch at most, d byte width, D trunk width.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from scratchpatch.accounting.parameters import parameters
from scratchpatch.errors import UserError
from scratchpatch.model.pooling import Pooling
from tests import tiny
from tests.tiny import BOS

CONCAT = {
    "model.pooling.kind": "concat",
    "model.pooling.last_state": False,
    "patching.patch_bytes": 3,
    "trigger.kind": "every",
}


@pytest.fixture(scope="module")
def pooling():
    return Pooling(tiny.config(CONCAT), nnx.Rngs(0))


def test_each_byte_of_the_patch_has_a_matrix_of_its_own(pooling):
    made = tiny.config(CONCAT)
    tokens_BL = np.array([[BOS, *b"abcdefg", BOS, *b"hij"]])
    h_BLd = jax.random.normal(jax.random.key(1), (1, 12, 16))
    layout = tiny.decide(made, tokens_BL, jnp.zeros(tokens_BL.shape))
    pooled_ND = np.asarray(pooling(h_BLd, layout)[0])
    ends_N = np.asarray(layout.slots.end_BN[0])
    matrix_MdD = np.asarray(pooling.projection.kernel.get_value()).reshape(3, 16, 32)
    state_Ld = np.asarray(h_BLd[0] / np.sqrt(np.square(h_BLd[0]).mean(-1, keepdims=True) + made.model.norm_eps))
    # Patches are BOS a b, c d e, f g, and then, in the next document, BOS h i, j: the bytes before each that it has.
    before_L = [0, 1, 2, 0, 1, 2, 0, 1, 0, 1, 2, 0]
    slot_L = {int(end): n for n, end in enumerate(ends_N)}
    assert set(slot_L) >= set(range(12))
    for place, before in enumerate(before_L):
        wanted_D = sum(state_Ld[place - m] @ matrix_MdD[m] for m in range(before + 1))
        np.testing.assert_allclose(pooled_ND[slot_L[place]], wanted_D, atol=1e-5)


def test_its_matrix_grows_with_the_longest_patch(pooling):
    assert pooling.projection.kernel.get_value().shape == (3 * 16, 32)
    sizes = {
        kind: parameters(tiny.config({**CONCAT, **fields}))["pooling"]
        for kind, fields in {
            "3": {},
            "5": {"patching.patch_bytes": 5},
            "at most 9": {"patching.kind": "whitespace"},
            "bytes": {"patching.kind": "byte", "trigger.kind": "none"},
        }.items()
    }
    assert sizes == {kind: 16 + size * 16 * 32 for kind, size in (("3", 3), ("5", 5), ("at most 9", 9), ("bytes", 1))}


def test_it_is_named_among_the_kinds():
    with pytest.raises(UserError, match="concat"):
        tiny.config({"model.pooling.kind": "megabyte"})
