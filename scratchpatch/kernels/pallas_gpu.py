"""GPU: attention over ranges of keys, a Pallas kernel lowered by Triton (after arXiv 2307.08691).

A program takes a block of queries through the blocks of keys that it sees; for
the gradients of keys and values, a block of keys through the queries that see it.

Legend: B rows, N queries, S keys, H heads, G key-value heads, R heads per
key-value head, K head width, C queries and T keys of a block, V blocks to visit.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from scratchpatch.kernels import blocks

# Queries, and keys, of a block: the backward pass sums two [64, 128] gradients in registers.
BLOCK = 64
# Wider heads spill them.
_WIDEST = 128
# Blocks that are fetched at a time.
STAGES = 2
# Logit of a key that is not seen: finite, so that no maximum is -inf.
_UNSEEN = -1e30


def problem(rows: int, queries: int, width: int, keys: int, band: int | None) -> str:
    """Why an attention is too much for it, to follow its name; '' if it is not."""
    return f"takes heads of at most {_WIDEST} channels, not {width}" if width > _WIDEST else ""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A `ranges.Kernel`. Attributes: see `splash.Kernel`."""

    band: int | None = None
    interpret: bool = False

    def forward(self, q_BNHK, k_BSGK, v_BSGK, begin_BN, end_BN):
        q, k, v, (begin, end) = _whole(q_BNHK), _whole(k_BSGK), _whole(v_BSGK), _whole_ranges(begin_BN, end_BN)
        visits, _ = self._visits(begin, end, k.shape[1])
        specs = _by_query(q, k, visits)
        sums = jax.ShapeDtypeStruct((q.shape[0], q.shape[2], q.shape[1]), jnp.float32)
        out, seen_BHN = self._call(
            functools.partial(_forward_kernel, scale=_scale(q_BNHK)),
            q.shape,
            [specs[x] for x in ("visits", "range", "range", "query", "keys", "keys")],
            [specs["query"], specs["sum"]],
            [q, sums],
        )(visits, begin, end, q, k, v)
        return _part(out, q_BNHK), seen_BHN[..., : q_BNHK.shape[1]]

    def backward(self, q_BNHK, k_BSGK, v_BSGK, begin_BN, end_BN, out_BNHK, total_BHN, d_BNHK):
        mean_BHN = jnp.einsum("bnhk,bnhk->bhn", d_BNHK, out_BNHK, preferred_element_type=jnp.float32)
        q, k, v, (begin, end) = _whole(q_BNHK), _whole(k_BSGK), _whole(v_BSGK), _whole_ranges(begin_BN, end_BN)
        d, total, mean = _whole(d_BNHK), blocks.pad(total_BHN, 2, BLOCK), blocks.pad(mean_BHN, 2, BLOCK)
        of_queries, of_keys = self._visits(begin, end, k.shape[1])
        specs = _by_query(q, k, of_queries)
        (dq,) = self._call(
            functools.partial(_query_gradient_kernel, scale=_scale(q_BNHK)),
            q.shape,
            [specs[x] for x in ("visits", "range", "range", "query", "keys", "keys", "query", "sum", "sum")],
            [specs["query"]],
            [q],
        )(of_queries, begin, end, q, k, v, d, total, mean)
        specs = _by_key(q, k, of_keys)
        dk, dv = self._call(
            functools.partial(_key_gradient_kernel, scale=_scale(q_BNHK)),
            k.shape,
            [specs[x] for x in ("visits", "ranges", "ranges", "queries", "key", "key", "queries", "sums", "sums")],
            [specs["key"], specs["key"]],
            [k, v],
        )(of_keys, begin, end, q, k, v, d, total, mean)
        return _part(dq, q_BNHK), _part(dk, k_BSGK), _part(dv, v_BSGK)

    def _visits(self, begin_BN, end_BN, size: int):
        """For queries and for keys: int32 [B, blocks, 1 + V], how many blocks to visit, and which."""
        see_BIJ = blocks.seen(begin_BN, end_BN, BLOCK, BLOCK, size)

        def visits(see_BIJ):
            visit_BIV, count_BI = blocks.steps(see_BIJ, blocks.most(see_BIJ.shape[2], BLOCK, self.band))
            return jnp.concatenate([count_BI[..., None], visit_BIV], axis=-1)

        return visits(see_BIJ), visits(see_BIJ.swapaxes(1, 2))

    def _call(self, kernel, shape, in_specs, out_specs, like):
        """`kernel` over the blocks, heads and rows of an array of `shape`."""
        rows, length, heads, width = shape
        return pl.pallas_call(
            kernel,
            grid=(length // BLOCK, heads, rows),
            in_specs=in_specs,
            out_specs=out_specs,
            out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in like],
            compiler_params=triton.CompilerParams(num_warps=warps(width), num_stages=STAGES),
            interpret=self.interpret,
        )


def _scale(x_BNHK) -> float:
    return x_BNHK.shape[-1] ** -0.5


def padded(width: int) -> int:
    """A head's width as Triton has it: a power of 2, and enough for a product."""
    return max(pl.next_power_of_2(width), 16)


def warps(width: int) -> int:
    """Warps of a program, for a padded width."""
    return 4 if width <= 64 else 8


def _whole(x_BNHK):
    """Whole blocks, of a width that Triton has."""
    return blocks.pad(blocks.pad(x_BNHK, 1, BLOCK), 3, padded(x_BNHK.shape[3]))


def _whole_ranges(begin_BN, end_BN):
    return blocks.pad(begin_BN, 1, BLOCK), blocks.pad(end_BN, 1, BLOCK)


def _part(x, like):
    return x[:, : like.shape[1], :, : like.shape[3]]


def _by_query(q, k, visits):
    """Where the program of block i, head h and row b finds its arrays."""
    _, length, groups, width = k.shape
    shared = q.shape[2] // groups
    return {
        "visits": pl.BlockSpec((None, None, visits.shape[2]), lambda i, h, b: (b, i, 0)),
        "range": pl.BlockSpec((None, BLOCK), lambda i, h, b: (b, i)),
        "query": pl.BlockSpec((None, BLOCK, None, width), lambda i, h, b: (b, i, h, 0)),
        "keys": pl.BlockSpec((None, length, None, width), lambda i, h, b: (b, 0, lax.div(h, shared), 0)),
        "sum": pl.BlockSpec((None, None, BLOCK), lambda i, h, b: (b, h, i)),
    }


def _by_key(q, k, visits):
    """Where the program of block j, key-value head g and row b finds its arrays."""
    _, length, heads, width = q.shape
    shared = heads // k.shape[2]
    return {
        "visits": pl.BlockSpec((None, None, visits.shape[2]), lambda j, g, b: (b, j, 0)),
        "ranges": pl.BlockSpec((None, length), lambda j, g, b: (b, 0)),
        "queries": pl.BlockSpec((None, length, shared, width), lambda j, g, b: (b, 0, g, 0)),
        "key": pl.BlockSpec((None, BLOCK, None, width), lambda j, g, b: (b, j, g, 0)),
        "sums": pl.BlockSpec((None, shared, length), lambda j, g, b: (b, g, 0)),
    }


def _rows(block):
    return pl.ds(block * BLOCK, BLOCK)


def _seen_by(begin_C, end_C, j):
    """bool [C, T]: which keys of block j each query sees."""
    key_T = j * BLOCK + jnp.arange(BLOCK, dtype=jnp.int32)
    return (key_T[None, :] >= begin_C[:, None]) & (key_T[None, :] < end_C[:, None])


def _forward_kernel(visits, begin, end, q, k, v, out, seen, *, scale):
    q_CK, begin_C, end_C = q[...], begin[...], end[...]

    def body(t, carry):
        top_C, sum_C, out_CK = carry
        j = visits[t + 1]
        logits_CT = triton.dot(q_CK, k[_rows(j), :].T) * scale
        logits_CT = jnp.where(_seen_by(begin_C, end_C, j), logits_CT, _UNSEEN)
        new_C = jnp.maximum(top_C, logits_CT.max(axis=1))
        weights_CT, old_C = jnp.exp(logits_CT - new_C[:, None]), jnp.exp(top_C - new_C)
        out_CK = out_CK * old_C[:, None] + triton.dot(weights_CT.astype(v.dtype), v[_rows(j), :])
        return new_C, sum_C * old_C + weights_CT.sum(axis=1), out_CK

    # Beside the keys it stands for no weight, and without them the sum is not 0.
    top_C, sum_C = jnp.full((BLOCK,), _UNSEEN, jnp.float32), jnp.ones((BLOCK,), jnp.float32)
    carry = top_C, sum_C, jnp.zeros(q_CK.shape, jnp.float32)
    top_C, sum_C, out_CK = lax.fori_loop(0, visits[0], body, carry)
    out[...] = (out_CK / sum_C[:, None]).astype(out.dtype)
    seen[...] = top_C + jnp.log(sum_C)


def _query_gradient_kernel(visits, begin, end, q, k, v, d, total, mean, dq, *, scale):
    q_CK, d_CK, begin_C, end_C, total_C, mean_C = q[...], d[...], begin[...], end[...], total[...], mean[...]

    def body(t, dq_CK):
        j = visits[t + 1]
        k_TK = k[_rows(j), :]
        logits_CT = triton.dot(q_CK, k_TK.T) * scale
        weights_CT = jnp.where(_seen_by(begin_C, end_C, j), jnp.exp(logits_CT - total_C[:, None]), 0.0)
        d_logits_CT = weights_CT * (triton.dot(d_CK, v[_rows(j), :].T) - mean_C[:, None]) * scale
        return dq_CK + triton.dot(d_logits_CT.astype(k.dtype), k_TK)

    dq[...] = lax.fori_loop(0, visits[0], body, jnp.zeros(q_CK.shape, jnp.float32)).astype(dq.dtype)


def _key_gradient_kernel(visits, begin, end, q, k, v, d, total, mean, dk, dv, *, scale):
    j, k_TK, v_TK = pl.program_id(0), k[...], v[...]
    shared = q.shape[1]

    def body(step, carry):
        # Of a block of queries, one head after the other.
        i, r = visits[lax.div(step, shared) + 1], lax.rem(step, shared)
        dk_TK, dv_TK = carry
        q_CK, d_CK = q[_rows(i), r, :], d[_rows(i), r, :]
        logits_CT = triton.dot(q_CK, k_TK.T) * scale
        seen_CT = _seen_by(begin[_rows(i)], end[_rows(i)], j)
        weights_CT = jnp.where(seen_CT, jnp.exp(logits_CT - total[r, _rows(i)][:, None]), 0.0)
        d_logits_CT = weights_CT * (triton.dot(d_CK, v_TK.T) - mean[r, _rows(i)][:, None]) * scale
        dk_TK += triton.dot(d_logits_CT.astype(q.dtype).T, q_CK)
        return dk_TK, dv_TK + triton.dot(weights_CT.astype(d.dtype).T, d_CK)

    zero_TK = jnp.zeros(k_TK.shape, jnp.float32)
    dk_TK, dv_TK = lax.fori_loop(0, visits[0] * shared, body, (zero_TK, zero_TK))
    dk[...], dv[...] = dk_TK.astype(dk.dtype), dv_TK.astype(dv.dtype)
