"""The dials of a model, and the thresholds along them."""

import itertools
import types

import numpy as np
import pytest

from scratchpatch.evaluation import sweep
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.inference.windows import Text
from scratchpatch.model import weights as weights_lib
from tests import runs, tiny

FEW = runs.SHALLOW | {"data.window": 64}
KINDS = ("entropy", "entropy_jump", "entropy_and_jump")


def model(fields):
    config = tiny.config(FEW | fields)
    return LanguageModel(config, weights_lib.random(config, 3))


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, [sweep.TRIGGER]),
        ({"trigger.kind": "none"}, [sweep.TRIGGER]),
        ({"patching.kind": "entropy", "trigger.kind": "none"}, [sweep.TRIGGER, sweep.PATCHIFIER]),
        ({"trigger.kind": "stride", "model.entropy_head.weight": 0.0}, []),
        (runs.BYTE_LEVEL, []),
        (runs.ENTROPY_MODEL, []),
    ],
)
def test_dials_are_thresholds_that_entropies_move(fields, wanted):
    config = tiny.config(FEW | fields)
    assert sweep.dials(types.SimpleNamespace(config=config)) == wanted


@pytest.mark.parametrize("kind", KINDS)
def test_a_falling_threshold_makes_ever_shorter_patches(kind):
    lm = model({"patching.kind": kind, "patching.patch_bytes": 4, "trigger.kind": "none"})
    stream = Text(lm.tokens(bytes(tiny.text(np.random.default_rng(0), 400).astype(np.uint8))), lm.vocabulary)
    moved = sweep.models(lm, sweep.PATCHIFIER, [stream])
    points = [sweep.point(each, threshold, [stream]) for threshold, each in moved]
    thresholds, sizes = ([point[name] for point in points] for name in ("threshold", "bytes_per_patch"))
    assert len(points) >= 3 and all(a > b for a, b in itertools.pairwise(thresholds))
    assert all(a >= b for a, b in itertools.pairwise(sizes)) and sizes[0] > 1.5 * sizes[-1]
    assert all(point["scratchpads_per_byte"] == 0 for point in points)
    if kind == "entropy":
        # The sizes asked for, but for what the longest patch ends.
        assert sizes[-1] == pytest.approx(2, rel=0.2)


def test_points_have_names():
    names = [sweep.label(sweep.TRIGGER, threshold) for threshold in (None, 1e9, 1.2345, -1.0)]
    assert names == ["", "none", "1.23", "every byte"]
    assert sweep.label(sweep.PATCHIFIER, -1.0) == "-1"
