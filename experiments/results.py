"""Measurements of a study's runs by variant and seed, when a difference is a result, and how a page is written."""

import textwrap

import numpy as np

# Two seeds of one model differed by 0.04 BPB in a prototype: no mean difference below this is called a result.
NOISE = 0.01


class Results:
    """Measurements by (variant, seed), as the runs' result.json have them."""

    def __init__(self, results: dict[tuple[str, int], dict]):
        self.results = results
        self.seeds = sorted({seed for _, seed in results})

    def values(self, variant: str, key: str) -> np.ndarray:
        """One number per seed."""
        return np.array([self.results[variant, seed][key] for seed in self.seeds])

    def of_first_seed(self, variant: str) -> dict:
        return self.results[variant, self.seeds[0]]

    def difference(self, a: str, b: str) -> str:
        """BPB of a minus b, paired by seed, and whether it is a result."""
        by_seed = self.values(a, "bpb") - self.values(b, "bpb")
        return f"{mean_and_each(by_seed)}: {shown(by_seed)}"


def within_noise(by_seed: np.ndarray) -> bool:
    """Whether differences are too small on average, or of two signs."""
    return abs(by_seed.mean()) < NOISE or bool((np.sign(by_seed) != np.sign(by_seed[0])).any())


def shown(by_seed: np.ndarray, better: str = "better", worse: str = "worse") -> str:
    """What differences show: below zero is better."""
    return "within noise" if within_noise(by_seed) else worse if by_seed.mean() > 0 else better


def markdown(lines: list[str]) -> str:
    """A page of these paragraphs, items and rows of tables, at most 120 columns wide but for tables and pictures."""
    wrapped = []
    for line in lines:
        whole = not line or line.startswith(("|", "#", "!"))
        indent = "  " if line.startswith("- ") else ""
        wrapped += (
            [line]
            if whole
            else textwrap.wrap(line, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
        )
    return "\n".join(wrapped) + "\n"


def mean_and_each(by_seed: np.ndarray) -> str:
    return f"{by_seed.mean():+.4f} ({', '.join(f'{x:+.4f}' for x in by_seed)})"
