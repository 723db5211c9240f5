import numpy as np
import pytest

from scratchpatch import config as config_lib
from scratchpatch.bench import models

torch = pytest.importorskip("torch", reason="torch not installed: bash launch/setup.sh peer")


def test_the_loop_learns_its_batch_with_the_trunk_of_the_config(tiny):
    from scratchpatch.bench import flat

    config = models.flat_byte(tiny, 2, 16)
    loop = flat.Loop(config, np.random.default_rng(0).integers(0, 256, (2, 17)))
    vocabulary = config_lib.vocabulary(config).rows
    # 12 width^2 and two norms in each of 4 layers, one norm behind them, and a vector for each id and place.
    assert loop.parameters == 4 * (12 * 128**2 + 2 * 128) + 128 + 128 * (vocabulary + 16)
    assert loop.bytes == 32
    losses = []
    for _ in range(3):
        loop()
        losses.append(loop.loss)
    assert losses[0] == pytest.approx(np.log(vocabulary), abs=0.1) and losses[2] < losses[0]


def test_padding_is_no_target(tiny):
    from scratchpatch.bench import flat

    config = models.flat_byte(tiny, 2, 16)
    tokens = np.random.default_rng(0).integers(0, 256, (2, 17))
    tokens[1, 1:] = config_lib.vocabulary(config).pad
    padded, alone = flat.Loop(config, tokens), flat.Loop(config, tokens[:1])
    padded()
    alone()
    assert padded.loss == pytest.approx(alone.loss, rel=1e-5)


def test_the_transformer_is_causal():
    from scratchpatch.bench import flat

    model = flat.Transformer(264, 16, 32, 2, 4)
    ids = torch.randint(0, 256, (1, 16))
    changed = ids.clone()
    changed[0, 10:] = (changed[0, 10:] + 1) % 256
    difference = (model(ids) - model(changed)).abs().amax(-1)[0]
    assert difference[:10].max() == 0 and difference[10:].min() > 0


def test_flops_are_counted_by_the_rule():
    from scratchpatch.bench import flat

    # Width 2, one layer, rows of 3 bytes, 5 ids: 12 matrices of 2 x 2, two keys on average, and the logits.
    assert flat.trained(2, 1, 3, 5) == 3 * (2 * 12 * 4 + 4 * 2 * 2 + 2 * 2 * 5)
