"""Ratios of sums, and their errors."""

import math

import numpy as np
import pytest

from scratchpatch.tasks.ratios import ratio


def test_a_mean_has_the_usual_error():
    values = [0, 1, 1, 0, 1]
    value, error = ratio(values)
    assert value == pytest.approx(0.6)
    assert error == pytest.approx(np.std(values, ddof=1) / math.sqrt(5))


def test_the_error_of_a_ratio_is_that_of_drawing_items_again():
    random = np.random.default_rng(0)
    under = random.integers(1, 20, 200)
    over = random.binomial(under, random.beta(2, 2, 200))
    again = random.integers(0, 200, (4000, 200))
    value, error = ratio(over, under)
    assert value == pytest.approx(over.sum() / under.sum())
    assert error == pytest.approx((over[again].sum(1) / under[again].sum(1)).std(), rel=0.1)


def test_what_there_is_not_is_none():
    assert ratio([]) == (None, None)
    assert ratio([0, 0], [0, 0]) == (None, None)
    assert ratio([3]) == (3.0, None)
