import functools

import jax
import numpy as np
import pytest

from scratchpatch.model import loss as loss_lib, weights as weights_lib
from tests import tiny


@pytest.mark.parametrize("stopped", [True, False])
def test_its_loss_alone_reaches_the_encoder_only_where_its_gradient_is_not_stopped(stopped):
    config = tiny.config({"model.entropy_head.stop_gradient": stopped})
    definition, weights = weights_lib.abstract(config)[0], tiny.weights(config)
    tokens_BM = tiny.batch()

    def head_nats(params):
        model = weights_lib.merge(definition, {**weights, "params": params})
        rows = tiny.rows(tokens_BM[:, :-1])
        logits_BLV = model.entropy_head(model.encoder(rows), rows)
        return loss_lib.nats(logits_BLV, tokens_BM[:, 1:], rows.vocabulary).sum()

    gradient = jax.jit(jax.grad(head_nats))(weights["params"])
    some = functools.partial(jax.tree.map, lambda g: bool((np.abs(g) > 0).any()))
    assert all(jax.tree.leaves(some(gradient["entropy_head"])))
    assert set(jax.tree.leaves(some(gradient["encoder"]))) == {not stopped}
