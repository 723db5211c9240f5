"""Tasks of models that were not trained here: a Byte Latent Transformer in the published layout, and its export."""

import math

import numpy as np
import pytest

import scratchpatch as sp
from scratchpatch.inference.loading import load_hf_blt
from scratchpatch.inference.options import Options
from scratchpatch.tasks import evaluate, requests
from scratchpatch.tasks.recall import Recall
from scratchpatch.tasks.requests import Generation, Likelihood
from scratchpatch.tasks.task import Setting
from tests.interop import folders

ASKED = [Likelihood(b"how many? ", b"four"), Generation(b"abc", Options(max_bytes=4))]


@pytest.fixture(scope="module")
def blt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("blt")
    folders.write(folder, folders.settings(patching_threshold=2.0), 0)
    return load_hf_blt(folder, window=64, max_patch_bytes=16)


def test_a_blt_answers_as_it_scores_and_generates(blt):
    likely, written = requests.answer(blt, ASKED)
    bits = -blt.score(b"how many? four")[-4:].sum()
    assert likely.nats / math.log(2) == pytest.approx(bits, abs=1e-4)
    assert written == blt.generate(b"abc", max_bytes=4)


def test_an_exported_folder_gives_the_same_numbers(blt, tmp_path):
    sp.export(blt, tmp_path / "exported")
    task = Recall(pairs=2, questions=3, documents=4)
    ours, theirs = (
        evaluate.evaluate([task], Setting(lm, folder=tmp_path / name))[0]
        for name, lm in (("ours", blt), ("theirs", sp.load(tmp_path / "exported")))
    )
    assert ours["protocol"] == theirs["protocol"]
    np.testing.assert_equal(ours["results"], theirs["results"])
