import numpy as np
import pytest
from hypothesis import given, strategies as st

from scratchpatch.data.order import BLOCK, Order, shuffled


@given(st.integers(1, 700), st.integers(0, 2**64 - 1), st.integers(0, 10**6))
def test_every_epoch_is_a_permutation(count, seed, epoch):
    windows = shuffled(np.arange(epoch * count, (epoch + 1) * count), count, seed)
    np.testing.assert_array_equal(np.sort(windows), np.arange(count))


def test_epochs_and_seeds_have_their_own_permutations():
    turns = np.arange(2000)
    first, second = np.split(shuffled(turns, 1000, 1), 2)
    other = shuffled(turns, 1000, 2)[:1000]
    for a, b in ((first, second), (first, other), (first, np.arange(1000))):
        assert (a == b).mean() < 0.01
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.1


def test_permutations_are_about_equally_likely():
    windows = shuffled(np.arange(3 * 6000), 3, 9).reshape(-1, 3)
    _, counts = np.unique(windows, axis=0, return_counts=True)
    assert len(counts) == 6 and counts.min() > 900 and counts.max() < 1100


def test_the_order_is_what_it_has_always_been():
    """A run resumes by its step alone: another order here breaks every run under way."""
    sources, windows = Order([7, 100], [1.0, 2.0], seed=0).rows(0, 10)
    assert sources.tolist() == [0, 1, 1, 0, 1, 1, 0, 1, 1, 0]
    assert windows.tolist() == [6, 52, 26, 5, 37, 13, 2, 44, 27, 0]


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0], [0.7, 0.3], [5, 3, 1e-3], [1 / 3] * 3])
def test_sources_share_any_first_rows_by_weight(weights):
    rows = 3 * BLOCK
    sources, _ = Order([50] * len(weights), weights, 0).rows(0, rows)
    for source, weight in enumerate(weights):
        had = np.cumsum(sources == source)
        wanted = np.arange(1, rows + 1) * weight / sum(weights)
        assert np.abs(had - wanted).max() <= len(weights)


def test_each_source_goes_through_its_own_epochs_in_a_mixture():
    sources, windows = Order([5, 11], [2.0, 1.0], 3).rows(0, 3 * BLOCK)
    for source, count in ((0, 5), (1, 11)):
        mine = windows[sources == source]
        epochs = mine[: len(mine) // count * count].reshape(-1, count)
        np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(count), (len(epochs), 1)))


@given(st.integers(0, 3 * BLOCK), st.integers(1, 2 * BLOCK))
def test_any_stretch_is_the_same_rows(first, count):
    sources, windows = WHOLE.rows(first, count)
    np.testing.assert_array_equal(sources, EXPECTED[0][first : first + count])
    np.testing.assert_array_equal(windows, EXPECTED[1][first : first + count])


WHOLE = Order([13, 1000], [1.0, 1.5], 4)
EXPECTED = Order([13, 1000], [1.0, 1.5], 4).rows(0, 5 * BLOCK)


def test_far_rows_cost_no_more():
    order = Order([3_000_000_000, 7], [1.0, 1.0], 0)
    sources, windows = order.rows(10**13, 100)
    assert 0 <= windows.min() and windows[sources == 0].max() > 10**9


CHANGES = [(1, [3.0, 1.0, 1.0]), (700, [1.0, 1.0, 8.0]), (BLOCK + 5, [1.0, 5.0, 1.0])]
SIZES, WEIGHTS = [5, 90, 700], [1.0, 2.0, 1.0]


def test_weights_that_change_leave_the_rows_before_as_they_were():
    plain = Order(SIZES, WEIGHTS, 7)
    for kept in range(len(CHANGES)):
        before, after = Order(SIZES, WEIGHTS, 7, CHANGES[:kept]), Order(SIZES, WEIGHTS, 7, CHANGES[: kept + 1])
        row = CHANGES[kept][0]
        np.testing.assert_array_equal(before.rows(0, row), after.rows(0, row))
        assert (before.rows(row, 500)[0] != after.rows(row, 500)[0]).any()
    np.testing.assert_array_equal(plain.rows(0, 1), Order(SIZES, WEIGHTS, 7, CHANGES).rows(0, 1))


def test_every_source_goes_through_the_same_windows_whatever_its_weight():
    """No window is lost or repeated within an epoch of its source: a change moves when it comes, never whether."""
    rows = 3 * BLOCK
    sources, windows = Order(SIZES, WEIGHTS, 7, CHANGES).rows(0, rows)
    for source, (count, seed) in enumerate(zip(SIZES, Order(SIZES, WEIGHTS, 7)._seeds, strict=True)):
        mine = windows[sources == source]
        np.testing.assert_array_equal(mine, shuffled(np.arange(len(mine)), count, seed))
        epochs = mine[: len(mine) // count * count].reshape(-1, count)
        np.testing.assert_array_equal(np.sort(epochs), np.tile(np.arange(count), (len(epochs), 1)))


def test_the_rows_after_a_change_are_shared_by_the_new_weights():
    sources, _ = Order(SIZES, WEIGHTS, 7, CHANGES).rows(0, 3 * BLOCK)
    bounds = [0, *(row for row, _ in CHANGES), 3 * BLOCK]
    for begin, end, weights in zip(bounds, bounds[1:], [WEIGHTS, *(w for _, w in CHANGES)], strict=False):
        for source, weight in enumerate(weights):
            had = np.cumsum(sources[begin:end] == source)
            wanted = np.arange(1, end - begin + 1) * weight / sum(weights)
            assert np.abs(had - wanted).max() <= len(weights)


def test_a_change_far_on_costs_no_more():
    order = Order([3_000_000_000, 7], [1.0, 1.0], 0, [(10**12, [1.0, 3.0])])
    sources, windows = order.rows(10**13, BLOCK)
    assert (sources == 1).mean() == 0.75
    before = 10**12 // 2 + (10**13 - 10**12) // 4
    np.testing.assert_array_equal(
        windows[sources == 0], shuffled(before + np.arange((sources == 0).sum()), 3_000_000_000, order._seeds[0])
    )
