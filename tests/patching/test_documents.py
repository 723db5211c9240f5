import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings

from scratchpatch.patching import documents
from scratchpatch.vocabulary import PAD
from tests.patching import reference
from tests.patching.strategies import masks, rows


@settings(max_examples=30)
@given(tokens_BL=rows(), mask_BL=masks())
def test_starts_ends_offsets_previous_and_latest_equal_loops(tokens_BL, mask_BL):
    start_BL = documents.starts(jnp.asarray(tokens_BL))
    offset_BL = documents.offsets(start_BL)
    previous_BL = documents.previous(jnp.asarray(tokens_BL), start_BL, -7)
    latest_BL, end_BL = documents.latest(jnp.asarray(mask_BL), start_BL), documents.ends(jnp.asarray(tokens_BL))
    found = start_BL, offset_BL, previous_BL, latest_BL, end_BL
    start_BL, offset_BL, previous_BL, latest_BL, end_BL = jax.device_get(found)
    for r, tokens in enumerate(tokens_BL.tolist()):
        for start, stop in reference.spans(tokens):
            said = [n for n in range(start, stop) if tokens[n] != PAD]
            assert (np.flatnonzero(end_BL[r, start:stop]) + start).tolist() == said[-1:]
            for n in range(start, stop):
                assert start_BL[r, n] == start and offset_BL[r, n] == n - start
                assert previous_BL[r, n] == (tokens[n - 1] if n > start else -7)
                true = np.flatnonzero(mask_BL[r, start : n + 1])
                assert latest_BL[r, n] == (start + true[-1] if len(true) else -1)
