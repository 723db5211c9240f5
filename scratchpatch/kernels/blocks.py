"""Which blocks of keys the queries of a block see, as the kernels walk through them.

Legend: B rows, N queries, S keys, I blocks of queries, J blocks of keys, T steps.
"""

import jax
import jax.numpy as jnp


def pad(x: jax.Array, axis: int, size: int) -> jax.Array:
    """Zeros at the end of an axis, up to a multiple of `size`."""
    widths = [(0, 0)] * x.ndim
    widths[axis] = (0, -x.shape[axis] % size)
    return jnp.pad(x, widths)


def seen(begin_BN: jax.Array, end_BN: jax.Array, queries: int, keys: int, size: int) -> jax.Array:
    """bool [B, I, J]: whether a query of block I may see a key of block J.

    Args:
      begin_BN, end_BN: int32, the range [begin, end) of each query; N is a multiple of `queries`.
      queries, keys: sizes of the blocks.
      size: S, a multiple of `keys`.
    """
    some_BN = end_BN > begin_BN

    def split(x_BN):
        return x_BN.reshape(x_BN.shape[0], -1, queries)

    from_BI1 = split(jnp.where(some_BN, begin_BN, size)).min(axis=-1, keepdims=True)
    to_BI1 = split(jnp.where(some_BN, end_BN, 0)).max(axis=-1, keepdims=True)
    start_J = jnp.arange(0, size, keys, dtype=jnp.int32)
    return (start_J < to_BI1) & (start_J + keys > from_BI1)


def steps(seen_BIJ: jax.Array, most: int) -> tuple[jax.Array, jax.Array]:
    """(int32 [B, I, T] which blocks J to visit, int32 [B, I] how many); after the last it stays where it is.

    most: T, a static bound on how many there are.
    """
    count_BI = seen_BIJ.sum(axis=-1, dtype=jnp.int32)
    order_BIJ = jnp.argsort(~seen_BIJ, axis=-1, stable=True).astype(jnp.int32)
    t_T = jnp.arange(most, dtype=jnp.int32)
    at_BIT = jnp.minimum(t_T, jnp.maximum(count_BI - 1, 0)[..., None])
    return jnp.take_along_axis(order_BIJ, at_BIT, axis=-1), count_BI


def most(blocks: int, size: int, band: int | None) -> int:
    """The most of `blocks` blocks, of `size` queries or keys, that one may meet. band: see `splash.Kernel`."""
    return blocks if band is None else min(blocks, 1 + -(-(band - 1) // size))
