import math

import jax
import pytest

from scratchpatch import config as config_lib
from scratchpatch.bench import models
from scratchpatch.model import weights


def test_the_byte_level_config_keeps_the_trunk(tiny):
    other = models.byte_level(tiny)
    assert other.model.trunk == tiny.model.trunk and other.model.encoder == tiny.model.encoder
    assert other.patching.kind == "byte" and tiny.patching.kind == "fixed"


@pytest.mark.parametrize("variant", [models.byte_level, models.long_patches, models.small_blt])
def test_variants_hold_together_and_read_the_same_rows(tiny, variant):
    other = variant(tiny)
    config_lib.check(other)
    assert other.data == tiny.data and other.training == tiny.training
    assert config_lib.slots(other)[1] == 0


def test_patches_are_as_long_as_their_names_say(tiny):
    assert config_lib.slots(models.long_patches(tiny)) == (128 // 16, 0)
    assert config_lib.slots(models.small_blt(tiny)) == (128 // 4, 0)


def test_the_flat_model_has_nothing_but_layers_over_bytes(tiny):
    tiny.model.encoder.ngrams = (3, 4)
    flat = models.flat_byte(tiny, 12, 64)
    config_lib.check(flat)
    assert config_lib.slots(flat) == (64, 0)
    assert (flat.training.batch_rows, flat.data.window, flat.data.sources) == (12, 64, tiny.data.sources)
    _, shapes = weights.abstract(flat)
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes["params"])) == 921_088
