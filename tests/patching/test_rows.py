import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings

from tests import tiny
from tests.patching import reference
from tests.patching.strategies import masks, rows


@settings(max_examples=30)
@given(tokens_BL=rows(), mask_BL=masks())
def test_starts_ends_offsets_previous_and_latest_equal_loops(tokens_BL, mask_BL):
    packed = tiny.rows(tokens_BL)
    asked = packed, packed.previous(packed.tokens_BL, -7), packed.latest(jnp.asarray(mask_BL)), packed.ends_BL()
    packed, previous_BL, latest_BL, end_BL = jax.device_get(asked)
    start_BL, offset_BL = packed.start_BL, packed.offset_BL
    assert (packed.valid_BL == (tokens_BL != tiny.PAD)).all()
    for r, tokens in enumerate(tokens_BL.tolist()):
        for start, stop in reference.spans(tokens):
            said = [n for n in range(start, stop) if tokens[n] != tiny.PAD]
            assert (np.flatnonzero(end_BL[r, start:stop]) + start).tolist() == said[-1:]
            for n in range(start, stop):
                assert start_BL[r, n] == start and offset_BL[r, n] == n - start
                assert previous_BL[r, n] == (tokens[n - 1] if n > start else -7)
                true = np.flatnonzero(mask_BL[r, start : n + 1])
                assert latest_BL[r, n] == (start + true[-1] if len(true) else -1)
