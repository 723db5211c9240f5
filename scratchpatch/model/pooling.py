"""Pooling: one vector per slot from the bytes of its patch so far.

Legend: B rows, L byte positions, N slots, M bytes of a patch at most, d byte
width, D trunk width, H heads, K head width, k vectors of a slot.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from scratchpatch import config as config_lib
from scratchpatch.model import layers
from scratchpatch.patching.layout import Layout
from scratchpatch.patching.slots import Slots
from scratchpatch.sharding import constrain


def take(x_BLd: jax.Array, index_BN: jax.Array) -> jax.Array:
    """Rows of x by position, per batch row (vmap keeps the scatter local to it); gradients add up in float32."""
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PatchBytes:
    """What pooling reads of bytes: of each byte [B, L, d], or gathered, of the bytes of each slot's patch [B, N, M, d].

    `state` is normalised, but for max_query; `key` and `value` are None of the kinds that do not attend.
    """

    state: jax.Array
    key: jax.Array | None = None
    value: jax.Array | None = None


class Pooling(nnx.Module):
    """`mean`, `cross_attention` (the mean as query over the patch's bytes), `last`, `max_query`, `concat`, `gaussian`.

    cross_attention: paper (arXiv 2605.09630), app. B.1; residual and heads are our choice. max_query: BLT (arXiv
    2412.09871, section 3.2.2): queries from the maximum of the states over the patch, their results joined; the states
    themselves are not normalised first. concat: MegaByte (arXiv 2305.07185, section 2.2) joins the embeddings of a
    patch's bytes; here it is their states, the slot's last byte first, and zeros for the places that the patch does not
    have yet. Nothing is forgotten but by the projection, a matrix of M d x D: for patches of bounded size. gaussian
    (ours): a mean whose weights fall from the patch's middle like a normal density, of which place and width are
    learnt; at first half a patch wide. last_state (ours): a projection of the slot's last byte state is added, since a
    vector that is pooled over the patch forgets which byte it stands at. Of a patch longer than M bytes, the last M are
    read.
    """

    def __init__(self, config, rngs: nnx.Rngs):
        p, d, trunk = config.model.pooling, config.model.d_byte, config.model.trunk.d_model
        dtype = layers.activation_dtype(config)
        self.kind, self.heads, self.limit = p.kind, p.heads, config_lib.patch_limit(config)
        self.vectors = p.queries if p.kind == "max_query" else 1
        self.norm = layers.norm(d, config.model.norm_eps, dtype, rngs)
        if p.kind == "max_query":
            self.residual = config.model.cross_residual
            self.queries = layers.linear(d, self.vectors * d, ("width", "local_inner"), dtype, rngs)
            self.query_norm = layers.norm(d, config.model.norm_eps, dtype, rngs)
        # Patches of one byte are their last byte, but for the several queries of max_query.
        self.gathers = p.kind == "max_query" or p.kind != "last" and self.limit > 1
        self.attends = self.gathers and p.kind in ("cross_attention", "max_query")
        if self.attends:
            self.q = layers.linear(d, d, ("width", "local_inner"), dtype, rngs)
            self.k = layers.linear(d, d, ("width", "local_inner"), dtype, rngs)
            self.v = layers.linear(d, d, ("width", "local_inner"), dtype, rngs)
            self.o = layers.linear(d, d, ("local_inner", "width"), dtype, rngs)
        if p.kind == "gaussian":
            self.shift = nnx.Param(jnp.zeros((1,), jnp.float32))
            self.log_width = nnx.Param(jnp.log(jnp.full((1,), config.patching.patch_bytes / 2, jnp.float32)))
        # As BLT: queries that fill the trunk's width go there as they are.
        fills = p.kind == "max_query" and self.vectors * d == trunk
        names = ("width", "local_inner")
        joined = self.limit if p.kind == "concat" else self.vectors
        self.projection = None if fills else layers.linear(joined * d, trunk, names, dtype, rngs)
        self.last = layers.linear(d, trunk, names, dtype, rngs) if p.last_state else None

    def __call__(self, h_BLd, layout: Layout) -> jax.Array:
        """Slot vectors [B, N, D] from byte states."""
        slots, normed_BLd = layout.slots, self.norm(h_BLd)
        last_BNd = take(normed_BLd, slots.end_BN)
        pooled_BNd = last_BNd
        if self.gathers:

            def pool(h_BLd, normed_BLd, index_BNM, inside_BNM):
                views = self.views(h_BLd, normed_BLd)
                return self.combine(jax.tree.map(lambda x: take(x, index_BNM), views), inside_BNM)

            # The gathered patches are the largest temporary: they are recomputed, not kept.
            pool = jax.checkpoint(pool, prevent_cse=False)
            pooled_BNd = pool(h_BLd, normed_BLd, *self.places(slots))
        return constrain(self.project(pooled_BNd, last_BNd), "pooling.slots", "local_rows", "slots", None)

    def places(self, slots: Slots) -> tuple[jax.Array, jax.Array]:
        """Positions of the bytes of a slot's patch, int32 [B, N, M], the last one first; and whether they are in it."""
        index_BNM = slots.end_BN[..., None] - jnp.arange(self.limit, dtype=jnp.int32)
        return jnp.maximum(index_BNM, 0), index_BNM >= slots.start_BN[..., None]

    def views(self, h_BLd, normed_BLd) -> PatchBytes:
        """What slots read of each byte."""
        state_BLd = h_BLd if self.kind == "max_query" else normed_BLd
        if not self.attends:
            return PatchBytes(state_BLd)
        return PatchBytes(state_BLd, self.k(normed_BLd), self.v(normed_BLd))

    def combine(self, patch: PatchBytes, inside_BNM) -> jax.Array:
        """One vector per slot from the bytes of its patch, or, of max_query, its k vectors joined, and of concat M."""
        inside_BNM1 = inside_BNM[..., None]
        if self.kind == "concat":
            state_BNMd = jnp.where(inside_BNM1, patch.state, 0)
            return state_BNMd.reshape(*inside_BNM.shape[:2], -1)
        if self.kind == "max_query":
            lowest = jnp.finfo(patch.state.dtype).min
            most_BNd = jnp.where(inside_BNM1, patch.state, lowest).max(axis=2)
            x_BNkd = self.queries(most_BNd).reshape(*most_BNd.shape[:2], self.vectors, -1)
            x_BNkd = self.residual * x_BNkd + self._read(self.query_norm(x_BNkd), patch, inside_BNM)
            return x_BNkd.reshape(*most_BNd.shape[:2], -1)
        count_BN1 = inside_BNM.sum(axis=-1, dtype=jnp.float32)[..., None]
        if self.kind == "gaussian":
            away_BNM = jnp.arange(self.limit) - (count_BN1 - 1) / 2 - self.shift.get_value()
            logits_BNM = -0.5 * (away_BNM * jnp.exp(-self.log_width.get_value())) ** 2
            share_BNM1 = jax.nn.softmax(jnp.where(inside_BNM, logits_BNM, -jnp.inf), axis=-1)[..., None]
            return (share_BNM1 * patch.state).sum(axis=2).astype(patch.state.dtype)
        sum_BNd = jnp.where(inside_BNM1, patch.state, 0).sum(axis=2, dtype=jnp.float32)
        mean_BNd = (sum_BNd / count_BN1).astype(patch.state.dtype)
        if self.kind == "mean":
            return mean_BNd
        return mean_BNd + self._read(mean_BNd[:, :, None], patch, inside_BNM)[:, :, 0]

    def project(self, pooled_BNd, last_BNd) -> jax.Array:
        """To the trunk's width; the slot's last byte state is added where the config says so."""
        x_BND = pooled_BNd if self.projection is None else self.projection(pooled_BNd)
        return x_BND if self.last is None else x_BND + self.last(last_BNd)

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)

    def _read(self, x_BNkd, patch: PatchBytes, inside_BNM) -> jax.Array:
        """Attention of a slot's k vectors over the bytes of its patch."""
        q_BNkHK, k_BNMHK, v_BNMHK = map(self._heads, (self.q(x_BNkd), patch.key, patch.value))
        logits = jnp.einsum("bnchk,bnmhk->bnchm", q_BNkHK, k_BNMHK, preferred_element_type=jnp.float32)
        logits = jnp.where(inside_BNM[:, :, None, None], logits * q_BNkHK.shape[-1] ** -0.5, -jnp.inf)
        weights = jax.nn.softmax(logits, axis=-1).astype(patch.value.dtype)
        return self.o(jnp.einsum("bnchm,bnmhk->bnchk", weights, v_BNMHK).reshape(x_BNkd.shape))
