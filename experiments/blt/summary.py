"""The small BLT experiments as a page."""

import numpy as np

from experiments.blt.difficulty import RULES
from experiments.blt.entropy_corpora import CORPORA
from experiments.blt.worker import CLASSES

# Differences of paired seeds below this are not called a result.
NOISE = 0.01
_NAMES = {"entropy": "entropy", "random": "random", "fixed": "every 4 bytes"}


class Results:
    """Measurements by (variant, seed)."""

    def __init__(self, results: dict[tuple[str, int], dict]):
        self.results = results
        self.seeds = sorted({seed for _, seed in results})

    def of(self, variant: str, key: str) -> np.ndarray:
        """One value per seed."""
        return np.array([self.results[variant, seed][key] for seed in self.seeds])

    def first(self, variant: str) -> dict:
        return self.results[variant, self.seeds[0]]

    def difference(self, a: str, b: str) -> str:
        """BPB of a minus b, paired by seed, and whether it is a result."""
        d = self.of(a, "bpb") - self.of(b, "bpb")
        each = ", ".join(f"{x:+.4f}" for x in d)
        if abs(d.mean()) < NOISE or (np.sign(d) != np.sign(d[0])).any():
            return f"{d.mean():+.4f} ({each}): within noise"
        return f"{d.mean():+.4f} ({each}): {'worse' if d.mean() > 0 else 'better'}"


def page(results, thresholds, costs: str) -> str:
    """README.md, from the results by (variant, seed), the thresholds by corpus, and compute.py's table."""
    r = Results(results)
    any_result = r.first("entropy-books")
    lines = [
        "# First experiments with a small BLT",
        "",
        f"Written by `python -m experiments.blt.run`: 18 models of {len(r.seeds)} paired seeds (same initialisation, same data order), "
        f"{any_result['training_bytes'] / 1e6:.1f} MB of training bytes each, on 2 CPU cores. The entropy model is trained first, on "
        "all three corpora, and frozen; thresholds are those that `scratchpatch calibrate` finds for 4 bytes per patch on "
        "training text. So little training says something about the rules, nothing about what BLT reaches.",
        "",
        "## (a), (b) Strided against entropy patches of 4 bytes, English books",
        "",
        f"BPB of entropy minus strided: {r.difference('entropy-books', 'fixed-books')}.",
        "",
        "| patches | BPB | bytes per patch | 5% / 50% / 95% / longest | " + " | ".join(f"starts at {c}" for c in CLASSES) + " |",
        "|---" * (4 + len(CLASSES)) + "|",
    ]
    lines += [_statistics(r, f"{rule}-books", _NAMES[rule]) for rule in ("entropy", "fixed")]
    lines += [
        "",
        "The last columns: of all patches, how many start at such a byte; in brackets over how common it is.",
        "",
        "## (c) Cost at 4, 6 and 8 bytes per patch, same parameters",
        "",
        costs.rstrip(),
        "",
        "`python -m experiments.blt.compute`. In the program: with masked keys and values, forward pass, fixed patches (no "
        "entropy model). Inverse proportionality holds for the trunk alone. Encoder and decoder run at every byte, and so "
        "does the decoder's reading of its patch: they are the floor that larger patches do not lower, and the smaller the "
        "trunk's share, the sooner it shows. The entropy model of BLT is not in it: "
        "14 layers of width 768 at every byte cost another 0.2 GFLOPs.",
        "",
        "## (d) Does next-byte entropy measure difficulty?",
        "",
        "| text | patches | BPB, mean (each seed) | bytes per patch | threshold, nats |",
        "|---|---|---|---|---|",
    ]
    for corpus in CORPORA:
        for rule in RULES:
            v = f"{rule}-{corpus}"
            bpb = r.of(v, "bpb")
            level = f"{thresholds[corpus]['threshold']:.3f}" if rule == "entropy" else ""
            each = ", ".join(f"{x:.4f}" for x in bpb)
            lines.append(f"| {corpus} | {_NAMES[rule]} | {bpb.mean():.4f} ({each}) | {r.of(v, 'bytes_per_patch').mean():.2f} | {level} |")
    lines += ["", "BPB, paired by seed; nothing under 0.01, or of two signs, is called a result:", ""]
    for corpus in CORPORA:
        for other in ("random", "fixed"):
            lines.append(f"- {corpus}: entropy minus {_NAMES[other]} {r.difference(f'entropy-{corpus}', f'{other}-{corpus}')}")
    lines += ["", "Rank correlation between the entropy model's entropy and the loss of the strided model at the same byte:", ""]
    for corpus in CORPORA:
        v = f"fixed-{corpus}"
        entropy = r.of(v, "entropy_bits").mean()
        lines.append(
            f"- {corpus}: {r.of(v, 'rank_correlation').mean():.2f}; mean entropy {entropy:.2f} bits, mean loss {r.of(v, 'bpb').mean():.2f}"
        )
    lines += [
        "",
        "The correlation says whether entropy finds the hard bytes; the differences say whether a boundary there helps a "
        "model of this size, whose n-grams and local layers do most of the work.",
    ]
    return "\n".join([*lines, ""])


def _statistics(r: Results, variant: str, name: str) -> str:
    found = r.first(variant)
    sizes = " / ".join(f"{v:g}" for v in found["sizes"].values())
    shares = [
        f"{s:.0%} ({s / b:.1f}x)" if b else "0%" for s, b in zip(found["starts"], found["bytes"], strict=True)
    ]
    return f"| {name} | {r.of(variant, 'bpb').mean():.4f} | {found['bytes_per_patch']:.2f} | {sizes} | {' | '.join(shares)} |"
