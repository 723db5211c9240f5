import jax
import jax.numpy as jnp
import numpy as np

from scratchpatch.kernels import blocks


def test_steps_are_the_blocks_that_some_query_of_a_block_sees():
    begin_BN = jnp.array([[0, 0, 5, 9, 0, 0, 3, 3]])
    end_BN = jnp.array([[0, 2, 9, 12, 0, 0, 3, 8]])
    seen_BIJ = blocks.seen(begin_BN, end_BN, 2, 4, 12)
    #                                  none and [0, 2); [5, 9), [9, 12); none; none and [3, 8)
    assert seen_BIJ.tolist() == [[[True, False, False], [False, True, True], [False] * 3, [True, True, False]]]
    visit_BIT, count_BI = blocks.steps(seen_BIJ, 3)
    assert count_BI.tolist() == [[1, 2, 0, 2]]
    assert visit_BIT.tolist() == [[[0, 0, 0], [1, 2, 2], [0, 0, 0], [0, 1, 1]]]
    by_key, count_BJ = blocks.steps(seen_BIJ.swapaxes(1, 2), 4)
    assert count_BJ.tolist() == [[2, 2, 1]] and by_key[0, 1].tolist() == [1, 3, 3, 3]


def test_a_band_bounds_the_steps_both_ways_and_the_bound_is_reached():
    size, blocks_ = 8, 12
    n = jnp.arange(size * blocks_, dtype=jnp.int32)[None]
    for band in (1, 2, 8, 9, 10, 17, 18, 1000):
        seen_BIJ = blocks.seen(jnp.maximum(n - (band - 1), 0), n, size, size, size * blocks_)
        most = blocks.most(blocks_, size, band)
        # The block itself is among them, though with a band of 1 nobody sees it.
        assert max(int(seen_BIJ.sum(axis=2).max()), 1) == most
        assert max(int(seen_BIJ.sum(axis=1).max()), 1) == most


def test_padding_reaches_a_multiple():
    x = jnp.ones((2, 5))
    assert blocks.pad(x, 1, 4).shape == (2, 8) and blocks.pad(x, 0, 2).shape == (2, 5)
    np.testing.assert_array_equal(blocks.pad(x, 1, 4)[:, 5:], 0)
    assert jax.eval_shape(lambda x: blocks.pad(x, 1, 5), x).shape == (2, 5)
