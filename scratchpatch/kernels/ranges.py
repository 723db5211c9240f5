"""Attention of each query to a range of keys and to a key of its own, around a kernel that knows ranges alone.

The kernel's result and the query's own value are merged by their log-sum-exps. A log-sum-exp that a kernel returns
carries no gradient, so the whole is one custom_vjp: the kernel's backward pass is given the merged result and
log-sum-exp, with which its gradients come out right (arXiv 2310.01889).

Legend: B rows, N queries, S keys, G key-value heads, R query heads per key-value head, H = G * R heads, K head width.
"""

import functools
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from scratchpatch import precision, sharding


class Kernel(Protocol):
    """Masked softmax attention over keys [begin, end) of each query, which may be none. Hashable."""

    def forward(self, q_BNHK, k_BSGK, v_BSGK, begin_BN, end_BN):
        """(result [B, N, H, K], float32 log-sum-exp [B, H, N]); of no key: any result, at most -1e30."""

    def backward(self, q_BNHK, k_BSGK, v_BSGK, begin_BN, end_BN, out_BNHK, total_BHN, d_BNHK):
        """Gradients of q, k and v, from the merged result, its log-sum-exp and its gradient."""


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def attend(kernel, axes, q_BNHK, k_BSGK, v_BSGK, own_k_BNGK, own_v_BNGK, begin_BN, end_BN) -> jax.Array:
    """Query i reads keys j with begin_i <= j < end_i (int32), and its own: [B, N, H, K] in the dtype of v.

    kernel: a `Kernel`, of a platform. axes: the `sharding.Axes` of the trunk or a byte tier.
    """
    return _forward(kernel, axes, q_BNHK, k_BSGK, v_BSGK, own_k_BNGK, own_v_BNGK, begin_BN, end_BN)[0]


@precision.of_arguments
def _forward(kernel, axes, q, k, v, own_k, own_v, begin, end):
    rows, slots, all_heads, _ = q.shape
    out, seen_BHN = _spread(kernel.forward, axes, (q, k, v, begin, end), (q.shape, (rows, all_heads, slots)))
    own_BHN = _own(q, own_k) * q.shape[-1] ** -0.5
    total_BHN = jnp.logaddexp(seen_BHN, own_BHN)
    share, own_share = (jnp.exp(x - total_BHN).swapaxes(1, 2)[..., None] for x in (seen_BHN, own_BHN))
    # Of a query that sees no key, the kernel's result may be anything.
    merged = jnp.where(share > 0, out, 0) * share + own_share * _repeat(own_v, q)
    # Whoever keeps what has this name needs no second forward pass of the kernel for the gradients.
    merged, total_BHN = checkpoint_name((merged.astype(v.dtype), total_BHN), "attended")
    return merged, (q, k, v, own_k, own_v, begin, end, merged, total_BHN)


@precision.of_arguments
def _backward(kernel, axes, residuals, d):
    q, k, v, own_k, own_v, begin, end, merged, total_BHN = residuals
    scale = q.shape[-1] ** -0.5
    mean_BHN = jnp.einsum("bnhk,bnhk->bhn", d, merged, preferred_element_type=jnp.float32)
    arrays = (q, k, v, begin, end, merged, total_BHN, d)
    dq, dk, dv = _spread(kernel.backward, axes, arrays, (q.shape, k.shape, v.shape))
    own_BHN = jnp.exp(_own(q, own_k) * scale - total_BHN)
    d_own_BHN = own_BHN * (_own(d, own_v) - mean_BHN) * scale
    own, d_own = own_BHN.swapaxes(1, 2)[..., None], d_own_BHN.swapaxes(1, 2)[..., None]
    dq = dq + d_own * _repeat(own_k, q)
    d_own_k, d_own_v = _gather(d_own * q, own_k), _gather(own * d, own_v)
    return dq.astype(q.dtype), dk.astype(k.dtype), dv.astype(v.dtype), d_own_k, d_own_v, None, None


attend.defvjp(_forward, _backward)


def _own(q_BNHK, x_BNGK):
    """Product of each query with a vector of its own, float32 [B, H, N]."""
    return jnp.einsum("bnhk,bnhk->bhn", q_BNHK, _repeat(x_BNGK, q_BNHK), preferred_element_type=jnp.float32)


def _repeat(x_BNGK, q_BNHK):
    return jnp.repeat(x_BNGK, q_BNHK.shape[2] // x_BNGK.shape[2], axis=2)


def _gather(x_BNHK, like_BNGK):
    """The reverse of `_repeat` for gradients: the sum over a key's queries."""
    rows, length, groups, width = like_BNGK.shape
    return x_BNHK.reshape(rows, length, groups, -1, width).sum(axis=3).astype(like_BNGK.dtype)


def _spread(run, axes: sharding.Axes, arrays, results):
    """`run` on each device's rows and heads: XLA cannot split a kernel.

    arrays: [B, N], [B, H, N] and [B, N, H, K]. results: shapes of the tuple that `run` gives.
    """
    mesh = sharding.spread_mesh()
    if mesh is None:
        return run(*arrays)
    names = {2: (axes.rows, None), 3: (axes.rows, axes.heads, None), 4: (axes.rows, None, axes.heads, None)}

    def spec(shape):
        return sharding.spec(names[len(shape)], shape, mesh, "attention")

    in_specs = tuple(spec(x.shape) for x in arrays)
    # Rows and heads do not read each other: nothing is there for it to check.
    return jax.shard_map(run, in_specs=in_specs, out_specs=tuple(map(spec, results)), check_vma=False)(*arrays)
