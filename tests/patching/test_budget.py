import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from scratchpatch.patching import budget
from tests import tiny
from tests.patching import reference
from tests.patching.strategies import LENGTH, ROWS, masks, rows

capacities = st.one_of(
    st.sampled_from((Fraction(0), Fraction(1), Fraction(1, 3), Fraction(5, 16), Fraction(1, 4096))),
    st.fractions(0, 1, max_denominator=4096),
)


def grant(request_BL, tokens_BL, capacity) -> np.ndarray:
    return np.asarray(budget.grant(jnp.asarray(request_BL), tiny.rows(tokens_BL), capacity))


@settings(max_examples=30)
@given(tokens_BL=rows(), request_BL=masks(), capacity=capacities)
def test_grants_are_those_of_a_till_that_sees_one_byte_after_the_other(tokens_BL, request_BL, capacity):
    granted_BL = grant(request_BL, tokens_BL, capacity)
    for r, tokens in enumerate(tokens_BL.tolist()):
        for start, stop in reference.spans(tokens):
            till = reference.Budget(capacity)
            wanted = [till.grant(n, bool(request_BL[r, start + n])) for n in range(stop - start)]
            assert granted_BL[r, start:stop].tolist() == wanted


@settings(max_examples=20)
@given(tokens_BL=rows(), request_BL=masks(), capacities=st.tuples(capacities, capacities))
def test_more_capacity_never_grants_fewer_by_any_byte(tokens_BL, request_BL, capacities):
    # The sets need not be nested: what is spent early cannot be spent late.
    low_BL, high_BL = (grant(request_BL, tokens_BL, c) for c in sorted(capacities))
    assert not (low_BL & ~request_BL).any() and not (high_BL & ~request_BL).any()
    start_BL = np.asarray(tiny.rows(tokens_BL).start_BL)
    for low, high, start in zip(low_BL, high_BL, start_BL, strict=True):
        for begin in np.unique(start):
            inside = start == begin
            assert (np.cumsum(low[inside]) <= np.cumsum(high[inside])).all()


@settings(max_examples=15)
@given(tokens_BL=rows(), capacity=capacities)
def test_a_row_never_exceeds_its_static_size(tokens_BL, capacity):
    granted_BL = grant(np.ones_like(tokens_BL, bool), tokens_BL, capacity)
    assert granted_BL.sum(axis=1).max() <= int(capacity * LENGTH)


def test_all_is_granted_at_capacity_1_and_nothing_at_0():
    tokens_BL = np.full((ROWS, LENGTH), 65, np.int32)
    request_BL = np.ones((ROWS, LENGTH), bool)
    assert grant(request_BL, tokens_BL, Fraction(1)).all()
    assert not grant(request_BL, tokens_BL, Fraction(0)).any()


@pytest.mark.parametrize("length", [1, 1 << 14])
def test_rows_of_one_byte_and_of_many(length):
    request_BL = np.ones((1, length), bool)
    tokens_BL = np.full((1, length), 65, np.int32)
    capacity = Fraction(4095, 4096)
    granted_BL = jax.jit(lambda r, rows: budget.grant(r, rows, capacity))(request_BL, tiny.rows(tokens_BL))
    assert int(granted_BL.sum()) == int(capacity * length)


@pytest.mark.parametrize("capacity", [Fraction(1, 4096), Fraction(1, 3), Fraction(4095, 4096)])
@pytest.mark.parametrize("offset", [4095, 4096, 2**30 - 1, 2**31 - 2])
def test_the_credit_of_one_byte_is_exact_however_long_the_document(capacity, offset):
    credit = math.floor(capacity * (offset + 1)) - math.floor(capacity * offset)
    asked_B, offset_B = jnp.array([True, False]), jnp.full(2, offset)
    granted_B, slack_B = budget.step(jnp.array([0, 5]), asked_B, offset_B, capacity)
    assert granted_B.tolist() == [credit > 0, False] and slack_B.tolist() == [max(credit - 1, 0), 5 + credit]


def test_the_first_byte_of_a_document_forgets_the_slack_before_it():
    granted_B, slack_B = budget.step(jnp.array([7, 7]), jnp.array([True, True]), jnp.array([0, 1]), Fraction(1, 3))
    assert granted_B.tolist() == [False, True] and slack_B.tolist() == [0, 6]
