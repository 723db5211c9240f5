"""Pooling: one vector per slot from the bytes of its patch so far.

Legend: B rows, L byte positions, N slots, M bytes of a patch at most, d byte
width, D trunk width, H heads, K head width, k vectors of a slot.
"""

import functools

import jax
import jax.numpy as jnp
from flax import nnx

from scratchpatch import config as config_lib
from scratchpatch.model import layers, local
from scratchpatch.sharding import constrain


def take(x_BLd: jax.Array, index_BN: jax.Array) -> jax.Array:
    """Rows of x by position, per batch row (vmap keeps the gradient's scatter local to a row).

    A row may be taken many times, and its gradient is then a sum of as many:
    added up in float32, and rounded to the type of x once.
    """
    return _take(x_BLd.shape, x_BLd.dtype, x_BLd, index_BN)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _take(shape, dtype, x, index):
    return jax.vmap(lambda x, i: x[i])(x, index)


def _take_forward(shape, dtype, x, index):
    return _take(shape, dtype, x, index), index


def _take_backward(shape, dtype, index, gradient):
    def add(index, gradient):
        return jnp.zeros(shape[1:], jnp.float32).at[index].add(gradient.astype(jnp.float32), mode="promise_in_bounds")

    return jax.vmap(add)(index, gradient).astype(dtype), None


_take.defvjp(_take_forward, _take_backward)


class Pooling(nnx.Module):
    """`mean`, `cross_attention` (the mean as query over the patch's bytes), `last` or `max_query`.

    cross_attention: paper (arXiv 2605.09630), app. B.1; residual and heads are
    our choice. max_query: BLT (arXiv 2412.09871, section 3.2.2): queries from
    the maximum of the states over the patch, their results joined; the states
    themselves are not normalised first. last_state (ours): a projection of the
    slot's last byte state is added, since a pooled vector forgets which byte it
    stands at. Of a patch longer than M bytes, the last M are read.
    """

    def __init__(self, config, rngs: nnx.Rngs):
        p, d, trunk = config.model.pooling, config.model.d_byte, config.model.trunk.d_model
        dtype = local.activation_dtype(config)
        self.kind, self.heads, self.limit = p.kind, p.heads, config_lib.patch_limit(config)
        self.vectors = p.queries if p.kind == "max_query" else 1
        self.norm = layers.norm(d, config.model.norm_eps, dtype, rngs)
        if p.kind == "max_query":
            self.residual = config.model.cross_residual
            self.queries = layers.linear(d, self.vectors * d, ("width", "local_inner"), dtype, rngs)
            self.query_norm = layers.norm(d, config.model.norm_eps, dtype, rngs)
        if p.kind == "max_query" or (p.kind == "cross_attention" and self.limit > 1):
            self.q = layers.linear(d, d, ("width", "local_inner"), dtype, rngs)
            self.k = layers.linear(d, d, ("width", "local_inner"), dtype, rngs)
            self.v = layers.linear(d, d, ("width", "local_inner"), dtype, rngs)
            self.o = layers.linear(d, d, ("local_inner", "width"), dtype, rngs)
        # As BLT: queries that fill the trunk's width go there as they are.
        fills = p.kind == "max_query" and self.vectors * d == trunk
        names = ("width", "local_inner")
        self.projection = None if fills else layers.linear(self.vectors * d, trunk, names, dtype, rngs)
        self.last = layers.linear(d, trunk, names, dtype, rngs) if p.last_state else None

    def __call__(self, h_BLd, slots) -> jax.Array:
        raw_BLd, h_BLd = h_BLd, self.norm(h_BLd)
        last_BNd = take(h_BLd, slots.end_BN)
        if self.kind == "last" or (self.limit == 1 and self.kind != "max_query"):
            pooled_BNd = last_BNd
        else:
            index_BNM = slots.end_BN[..., None] - jnp.arange(self.limit, dtype=jnp.int32)
            inside_BNM = index_BNM >= slots.start_BN[..., None]
            index_BNM = jnp.maximum(index_BNM, 0)
            # The gathered windows are the largest temporary: recomputed, not kept.
            pool = self._pool_by_maximum if self.kind == "max_query" else self._pool
            pooled_BNd = jax.checkpoint(pool, prevent_cse=False)(raw_BLd, h_BLd, index_BNM, inside_BNM)
        x_BND = pooled_BNd if self.projection is None else self.projection(pooled_BNd)
        if self.last is not None:
            x_BND = x_BND + self.last(last_BNd)
        return constrain(x_BND, "pooling.slots", "local_rows", "slots", None)

    def _pool_by_maximum(self, raw_BLd, h_BLd, index_BNM, inside_BNM) -> jax.Array:
        lowest = jnp.finfo(raw_BLd.dtype).min
        most_BNd = jnp.where(inside_BNM[..., None], take(raw_BLd, index_BNM), lowest).max(axis=2)
        x_BNkd = self.queries(most_BNd).reshape(*most_BNd.shape[:2], self.vectors, -1)
        x_BNkd = self.residual * x_BNkd + self._read(self.query_norm(x_BNkd), h_BLd, index_BNM, inside_BNM)
        return x_BNkd.reshape(*most_BNd.shape[:2], -1)

    def _pool(self, _, h_BLd, index_BNM, inside_BNM) -> jax.Array:
        inside_BNM1 = inside_BNM[..., None]
        count_BN1 = inside_BNM.sum(axis=-1, dtype=jnp.float32)[..., None]
        sum_BNd = jnp.where(inside_BNM1, take(h_BLd, index_BNM), 0).sum(axis=2, dtype=jnp.float32)
        mean_BNd = (sum_BNd / count_BN1).astype(h_BLd.dtype)
        if self.kind == "mean":
            return mean_BNd
        return mean_BNd + self._read(mean_BNd[:, :, None], h_BLd, index_BNM, inside_BNM)[:, :, 0]

    def _read(self, x_BNkd, h_BLd, index_BNM, inside_BNM) -> jax.Array:
        """Attention of a slot's k vectors over the bytes of its patch."""
        split = lambda x: x.reshape(*x.shape[:-1], self.heads, -1)  # noqa: E731
        q_BNkHK = split(self.q(x_BNkd))
        k_BNMHK, v_BNMHK = (split(take(y_BLd, index_BNM)) for y_BLd in (self.k(h_BLd), self.v(h_BLd)))
        logits = jnp.einsum("bnchk,bnmhk->bnchm", q_BNkHK, k_BNMHK, preferred_element_type=jnp.float32)
        logits = jnp.where(inside_BNM[:, :, None, None], logits * q_BNkHK.shape[-1] ** -0.5, -jnp.inf)
        weights = jax.nn.softmax(logits, axis=-1).astype(h_BLd.dtype)
        return self.o(jnp.einsum("bnchm,bnmhk->bnchk", weights, v_BNMHK).reshape(x_BNkd.shape))
