"""CPU: attention over ranges of keys, in blocks of queries whose logits stay in the processor's cache.

Which keys a block of queries may see at all is known before anything is computed: those of a band, or, of a staircase,
the commits before its last query. The rest is left out, and what is left is multiplied whole and masked. Only results
and log-sum-exps are kept for the backward pass, which computes the logits again (arXiv 2205.14135).

Legend: B rows, N queries, S keys, H heads, G key-value heads, K head width; M of the B * H heads at a time; C queries
of a block, T keys that it may see.
"""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

# Queries of a block, at least; a row has at most so many blocks, since each is compiled by itself.
_BLOCK, _MOST = 128, 16
# Slots of a row, at most: in rows so long the logits of a block are larger than a cache.
_SLOTS = 4096
# Bytes of the logits that are computed at a time: they fit a cache.
_CACHE = 4 << 20
# Logit of a key that is not seen: finite, so that no maximum is -inf.
_UNSEEN = -1e30


def problem(rows: int, queries: int, width: int, keys: int, band: int | None) -> str:
    """Why an attention is too much for it, to follow its name; '' if it is not."""
    most = _SLOTS if band is None else _MOST * _size(band, 0)
    return f"takes rows of at most {most} queries, not {queries}" if queries > most else ""


def _size(band: int | None, queries: int) -> int:
    """Queries of a block."""
    return max(_BLOCK, -(-queries // _MOST) if band is None else band // 2)


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A `ranges.Kernel`.

    Attributes:
      band: query i sees at most the `band` - 1 keys before key i, as many keys as queries; None: any.
      ordered: where there is a key i, query i sees none from it on.
    """

    band: int | None = None
    ordered: bool = False

    def forward(self, q_BNHK, k_BSGK, v_BSGK, begin_BN, end_BN):
        def run(q, k, v, begin, end):
            outs, sums = [], []
            for block, keys in self._blocks(q.shape[1], k.shape[1]):
                logits = _logits(q[:, block], k[:, keys], begin[:, block], end[:, block], keys.start)
                top = logits.max(axis=-1, keepdims=True)
                weights = jnp.exp(logits - top)
                total = weights.sum(axis=-1, keepdims=True)
                outs.append(_multiply(weights.astype(v.dtype), v[:, keys]) / total)
                sums.append((top + jnp.log(total))[..., 0])
            return jnp.concatenate(outs, axis=1), jnp.concatenate(sums, axis=1)

        arrays = _heads(q_BNHK, q_BNHK), _heads(k_BSGK, q_BNHK), _heads(v_BSGK, q_BNHK)
        out, seen = self._each(run, arrays + _ranges(q_BNHK, begin_BN, end_BN))
        return _rows(out, q_BNHK).astype(v_BSGK.dtype), seen.reshape(*begin_BN.shape[:1], -1, begin_BN.shape[1])

    def backward(self, q_BNHK, k_BSGK, v_BSGK, begin_BN, end_BN, out_BNHK, total_BHN, d_BNHK):
        scale = q_BNHK.shape[-1] ** -0.5
        mean_BHN = jnp.einsum("bnhk,bnhk->bhn", d_BNHK, out_BNHK, preferred_element_type=jnp.float32)

        def run(q, k, v, begin, end, d, total, mean):
            # The narrow factors are turned around, never the [C, T] one.
            q_t, d_t = q.swapaxes(1, 2), d.swapaxes(1, 2)
            dq, dk_t = [], jnp.zeros(k.swapaxes(1, 2).shape, jnp.float32)
            dv_t = dk_t
            for block, keys in self._blocks(q.shape[1], k.shape[1]):
                logits = _logits(q[:, block], k[:, keys], begin[:, block], end[:, block], keys.start)
                weights = jnp.exp(logits - total[:, block, None])
                d_logits = weights * (_product(d[:, block], v[:, keys]) - mean[:, block, None]) * scale
                weights, d_logits = weights.astype(v.dtype), d_logits.astype(k.dtype)
                dq.append(_multiply(d_logits, k[:, keys]))
                dk_t = _add(dk_t, _multiply(q_t[:, :, block], d_logits), keys.start)
                dv_t = _add(dv_t, _multiply(d_t[:, :, block], weights), keys.start)
            return jnp.concatenate(dq, axis=1), dk_t.swapaxes(1, 2), dv_t.swapaxes(1, 2)

        arrays = _heads(q_BNHK, q_BNHK), _heads(k_BSGK, q_BNHK), _heads(v_BSGK, q_BNHK)
        sums = (x.reshape(-1, x.shape[-1]) for x in (total_BHN, mean_BHN))
        given = arrays + _ranges(q_BNHK, begin_BN, end_BN) + (_heads(d_BNHK, q_BNHK), *sums)
        dq, dk, dv = self._each(run, given)
        rows, keys, groups, width = k_BSGK.shape
        dk, dv = (x.reshape(rows, groups, -1, keys, width).sum(axis=2).swapaxes(1, 2) for x in (dk, dv))
        return _rows(dq, q_BNHK), dk, dv

    def _blocks(self, queries: int, keys: int) -> Iterator[tuple[slice, slice]]:
        """Slices of the queries of each block, and of the keys that some of them may see."""
        size = _size(self.band, queries)
        ordered = min(keys, queries) if self.ordered else 0
        edges = [*range(0, ordered, size), *range(ordered, queries, size), queries]
        for first, stop in zip(edges, edges[1:], strict=False):
            if self.band is not None:
                yield slice(first, stop), slice(max(first - self.band + 1, 0), max(stop - 1, 1))
            else:
                yield slice(first, stop), slice(0, max(stop - 1, 1) if first < ordered else keys)

    def _each(self, run: Callable, arrays: tuple[jax.Array, ...]):
        """`run` on so many heads [M, ...] of arrays [B * H, ...] at a time that their logits fit the cache."""
        heads, queries = arrays[0].shape[:2]
        largest = max(
            (block.stop - block.start) * (keys.stop - keys.start)
            for block, keys in self._blocks(queries, arrays[1].shape[1])
        )
        at_once = next(m for m in range(heads, 0, -1) if heads % m == 0 and (m == 1 or 4 * m * largest <= _CACHE))
        if at_once == heads:
            return run(*arrays)
        split = [x.reshape(-1, at_once, *x.shape[1:]) for x in arrays]
        results = jax.lax.map(lambda x: run(*x), split)
        return jax.tree.map(lambda x: x.reshape(heads, *x.shape[2:]), results)


def _heads(x_BTGK, q_BNHK):
    """[B * H, T, K]: head by head, keys and values once for each of their queries."""
    x_BTHK = jnp.repeat(x_BTGK, q_BNHK.shape[2] // x_BTGK.shape[2], axis=2)
    return x_BTHK.swapaxes(1, 2).reshape(-1, x_BTHK.shape[1], x_BTHK.shape[3])


def _rows(x, like_BNHK):
    """The reverse of `_heads` for queries."""
    rows, queries, heads, width = like_BNHK.shape
    return x.reshape(rows, heads, queries, width).swapaxes(1, 2)


def _ranges(q_BNHK, begin_BN, end_BN):
    return tuple(jnp.repeat(x, q_BNHK.shape[2], axis=0) for x in (begin_BN, end_BN))


def _product(x, y):
    """Products of vectors, float32 [M, C, T]."""
    return jax.lax.dot_general(x, y, (((2,), (2,)), ((0,), (0,))), preferred_element_type=jnp.float32)


def _multiply(x, y):
    return jax.lax.dot_general(x, y, (((2,), (1,)), ((0,), (0,))), preferred_element_type=jnp.float32)


def _logits(q, k, begin, end, offset: int):
    """float32 [M, C, T] for the keys from `offset` on."""
    j_T = offset + jnp.arange(k.shape[1], dtype=jnp.int32)
    see = (j_T >= begin[..., None]) & (j_T < end[..., None])
    return jnp.where(see, _product(q, k) * q.shape[-1] ** -0.5, _UNSEEN)


def _add(total, more, offset: int):
    """`more` [M, K, T] added to the columns of `total` from `offset` on."""
    old = jax.lax.slice_in_dim(total, offset, offset + more.shape[2], axis=2)
    return jax.lax.dynamic_update_slice_in_dim(total, old + more, offset, axis=2)
