"""Ratios of sums over items, with their standard errors. Legend: N items."""

import math
from collections.abc import Sequence

import numpy as np


def ratio(over_N: Sequence[float], under_N: Sequence[float] | None = None) -> tuple[float | None, float | None]:
    """The sum of `over_N` divided by that of `under_N`, and its standard error.

    Items are taken as independent of each other, and what is counted inside one item is not: so the error of an
    accuracy over answers of several per document, or of bits per byte, is that of documents (the linearised variance of
    a ratio estimator; Cochran, Sampling Techniques, section 6.4).

    under_N: None: 1 of each item, which makes a mean.
    Returns:
      None for a value that there is not: of no items, or of a sum of 0; the error also of one item.
    """
    over_N = np.asarray(over_N, np.float64)
    under_N = np.ones_like(over_N) if under_N is None else np.asarray(under_N, np.float64)
    total, count = math.fsum(under_N), len(over_N)
    if not total:
        return None, None
    value = math.fsum(over_N) / total
    if count < 2:
        return value, None
    squares = math.fsum((over_N - value * under_N) ** 2)
    return value, math.sqrt(count / (count - 1) * squares) / abs(total)
