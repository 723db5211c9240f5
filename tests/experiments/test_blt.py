import numpy as np
import pytest

from experiments.blt import compute, summary, worker
from experiments.blt.difficulty import VARIANTS
from scratchpatch import config as config_lib
from scratchpatch.accounting import flops
from scratchpatch.inference.language_model import Positions


def test_bytes_fall_into_classes():
    data = np.frombuffer("a9 ,é\n".encode(), np.uint8)
    names = [worker.CLASSES[i] for i in worker.byte_class(data)]
    assert names == [
        "letter or digit",
        "letter or digit",
        "white space",
        "other ASCII",
        "first byte of a character",
        "inside a character",
        "white space",
    ]


class Model:
    """BOS, then 'ab cd'; a patch ends with the BOS, with 'b' and with 'c'."""

    config = config_lib.default()

    def positions(self, _):
        targets = np.frombuffer(b"ab cd", np.uint8).astype(np.int32)
        flat = np.zeros(5)
        yield Positions(
            nats=np.array([1.0, 2.0, 3.0, 4.0, 5.0]) * np.log(2),
            head_nats=flat,
            targets=targets,
            best=flat.astype(bool),
            entropy=np.array([0.1, 0.2, 0.3, 0.4, 0.5]),
            commit=np.array([True, False, True, False, True]),
            scratchpad=flat.astype(bool),
            offset=flat.astype(int),
            since=np.arange(1, 6),
        )


def test_patch_statistics():
    measured = worker.measure(Model(), None)
    assert measured["bpb"] == 3.0 and measured["bytes_per_patch"] == 5 / 3
    assert measured["sizes"] == {"5%": 1.1, "50%": 2.0, "95%": 2.0, "most": 2.0}
    # Patches start at 'a', ' ' and 'd'.
    assert measured["starts"] == [2 / 3, 1 / 3, 0, 0, 0]
    assert measured["bytes"] == [0.8, 0.2, 0, 0, 0]
    assert abs(measured["rank_correlation"] - 1) < 1e-12


def test_the_page_pairs_seeds_and_names_noise():
    fixed = {
        "bytes_per_patch": 4.0,
        "sizes": {"5%": 1.0, "50%": 4.0, "95%": 9.0, "most": 20.0},
        "starts": [0.2] * 5,
        "bytes": [0.4, 0.2, 0.2, 0.2, 0.0],
        "rank_correlation": 0.5,
        "entropy_bits": 2.0,
        "training_bytes": 1_000_000,
    }
    level = {"entropy": 2.0, "random": 2.1, "fixed": 2.004}
    results = {(v, s): fixed | {"bpb": level[v.split("-")[0]] + 0.05 * s} for v in VARIANTS for s in (0, 1)}
    page = summary.page(results, {c: {"threshold": 1.5} for c in ("books", "code", "chinese")}, "| costs |")
    assert "- code: entropy minus random -0.1000 (-0.1000, -0.1000): better" in page
    assert "- chinese: entropy minus every 4 bytes -0.0040 (-0.0040, -0.0040): within noise" in page
    assert "| books | entropy | 2.0250 (2.0000, 2.0500) | 4.00 | 1.500 |" in page
    assert "20% (0.5x) | 20% (1.0x)" in page and "| costs |" in page


@pytest.mark.parametrize("name", compute.MODELS)
def test_costs_fall_with_the_patch_size(name):
    totals = [sum(flops.inference(compute.config_of(name, p), 1 / p, 0.0, 1536).values()) for p in compute.SIZES]
    assert totals[0] > totals[1] > totals[2] > totals[0] / 2


@pytest.mark.parametrize("name, patch_bytes", [("8B", 6), ("1B", 8), ("small", 4)])
def test_our_count_of_the_program_agrees_with_xla(name, patch_bytes):
    cost = compute.row(compute.config_of(name, patch_bytes), patch_bytes)
    assert 0.99 < cost["xla"] / cost["program"] < 1.03
