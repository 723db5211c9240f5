import numpy as np

from experiments.blt import compute, summary, worker
from experiments.blt.difficulty import VARIANTS
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

    def positions(self, _):
        targets = np.frombuffer(b"ab cd", np.uint8).astype(np.int32)
        flat = np.zeros(5)
        yield Positions(
            nats=np.array([1.0, 2.0, 3.0, 4.0, 5.0]) * np.log(2),
            head_nats=flat,
            targets=targets,
            entropy=np.array([0.1, 0.2, 0.3, 0.4, 0.5]),
            commit=np.array([True, False, True, False, True]),
            scratchpad=flat.astype(bool),
            offset=flat.astype(int),
            since=np.arange(1, 6),
        )


def test_patch_statistics():
    found = worker.measure(Model(), None)
    assert found["bpb"] == 3.0 and found["bytes_per_patch"] == 5 / 3
    assert found["sizes"] == {"5%": 1.1, "50%": 2.0, "95%": 2.0, "most": 2.0}
    # Patches start at 'a', ' ' and 'd'.
    assert found["starts"] == [2 / 3, 1 / 3, 0, 0, 0]
    assert found["bytes"] == [0.8, 0.2, 0, 0, 0]
    assert abs(found["rank_correlation"] - 1) < 1e-12


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


def test_costs_fall_with_the_patch_size_and_agree_with_xla():
    for sizes in compute.rows().values():
        total = [row["total"] for row in sizes]
        assert total[0] > total[1] > total[2] > total[0] / 2
        for row in sizes:
            assert row["xla"] / row["program"] < 1.03 and row["xla"] > row["program"] * 0.99
