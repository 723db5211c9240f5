"""TPU: attention over ranges of keys by the splash kernel that JAX brings along.

README.md says how. Rows are laid one behind the other, for a batched kernel would run row by row.

Legend: B rows, N queries, S keys, H heads, G key-value heads, K head width, T and U the queries and keys of all rows,
padded to blocks.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import (
    splash_attention_kernel as stock,
    splash_attention_mask_info as stock_mask,
)

from scratchpatch.kernels import blocks

# The greatest that adds no more than an eighth to what is padded; splash's tiles are 128 wide.
_SIZES = (512, 256, 128)
# Bytes of scalar memory for the two tables of blocks to visit (of 1 MiB on every TPU so far), which are 128 wide.
_SCALARS = 896 * 1024


def block_size(length: int) -> int:
    """Queries or keys of a block."""
    return next((size for size in _SIZES if -length % size <= length / 8), _SIZES[-1])


def problem(rows: int, queries: int, width: int, keys: int, band: int | None) -> str:
    """Why a device's share of an attention is too much for it, to follow its name; '' if it is not."""
    padded = keys + -keys % block_size(keys)
    if (rows * padded).bit_length() + _length_bits(keys, band) > 31:
        return f"has no number for a range among {rows} rows of {keys} keys"
    steps = blocks.most(padded // block_size(keys), block_size(keys), band)
    tables = 2 * 4 * rows * -(-queries // block_size(queries)) * (steps + -steps % 128)
    if tables > _SCALARS:
        return f"has no room for the blocks of {rows} rows of {queries} queries: lower the rows per device"
    return ""


def _length_bits(keys: int, band: int | None) -> int:
    return (keys if band is None else min(keys, band)).bit_length()


@dataclasses.dataclass(frozen=True)
class Kernel:
    """A `ranges.Kernel`.

    Attributes:
      band: query i sees at most the `band` - 1 keys before key i, as many keys as queries; None: any.
      interpret: run on any device, slowly.
    """

    band: int | None = None
    interpret: bool = False

    def forward(self, q_BNHK, k_BSGK, v_BSGK, begin_BN, end_BN):
        sequence = _Sequence(self, q_BNHK.shape, k_BSGK.shape, begin_BN, end_BN)
        q_HTK, k_GUK, v_GUK = sequence.queries(q_BNHK * _scale(q_BNHK)), sequence.keys(k_BSGK), sequence.keys(v_BSGK)
        out_HTK, (seen_HT,) = stock._splash_attention_forward(
            sequence.by_query, q_HTK, k_GUK, v_GUK, None, None, save_residuals=True, **sequence.settings
        )
        return sequence.rows(out_HTK), sequence.rows(seen_HT[..., None])[..., 0].swapaxes(1, 2)

    def backward(self, q_BNHK, k_BSGK, v_BSGK, begin_BN, end_BN, out_BNHK, total_BHN, d_BNHK):
        sequence = _Sequence(self, q_BNHK.shape, k_BSGK.shape, begin_BN, end_BN)
        q_HTK, k_GUK, v_GUK = sequence.queries(q_BNHK * _scale(q_BNHK)), sequence.keys(k_BSGK), sequence.keys(v_BSGK)
        total_HT = sequence.queries(total_BHN.swapaxes(1, 2)[..., None])[..., 0]
        masks = sequence.by_query, sequence.by_key
        res = (q_HTK, k_GUK, v_GUK, None, None, sequence.queries(out_BNHK), total_HT, *masks)
        do_HTK = sequence.queries(d_BNHK)
        gradients = stock._splash_attention_bwd(save_residuals=False, res=res, do=do_HTK, **sequence.settings)
        dq_BNHK = sequence.rows(gradients[3])
        return dq_BNHK * _scale(dq_BNHK), sequence.rows(gradients[4], keys=True), sequence.rows(gradients[5], keys=True)


def _scale(x_BNHK):
    return jnp.asarray(x_BNHK.shape[-1] ** -0.5, x_BNHK.dtype)


class _Sequence:
    """Rows in one sequence, and the order in which blocks meet."""

    def __init__(self, kernel: Kernel, queries_shape, keys_shape, begin_BN, end_BN):
        self.batch, self.length, *_ = queries_shape
        self.size = keys_shape[1]
        self.bq, self.bk = block_size(self.length), block_size(self.size)
        size = self.size + -self.size % self.bk
        begin_BN, end_BN = (blocks.pad(x, 1, self.bq) for x in (begin_BN, end_BN))
        see_BIJ = blocks.seen(begin_BN, end_BN, self.bq, self.bk, size)

        def info(see_BIJ):
            # Splash is told the blocks J that each block I meets, in the numbers of the whole sequence.
            most = blocks.most(see_BIJ.shape[2], min(self.bq, self.bk), kernel.band)
            visit_BIT, count_BI = blocks.steps(see_BIJ, most)
            visit_BIT += (jnp.arange(self.batch, dtype=jnp.int32) * see_BIJ.shape[2])[:, None, None]
            run_BIT = jnp.arange(most) < count_BI[..., None]
            return visit_BIT.reshape(-1, most), run_BIT.reshape(-1, most).astype(jnp.int32)

        bits = _length_bits(self.size, kernel.band)
        row_B1 = (jnp.arange(self.batch, dtype=jnp.int32) * size)[:, None]
        range_T = (((end_BN + row_B1) << bits) + jnp.maximum(end_BN - begin_BN, 0)).reshape(-1)

        def see(range_QU, key_QU):
            end_QU = range_QU >> bits
            return (key_QU < end_QU) & (key_QU >= end_QU - (range_QU & ((1 << bits) - 1)))

        visit_IT, run_IT = info(see_BIJ)
        visit_JT, run_JT = info(see_BIJ.swapaxes(1, 2))
        self.by_query = stock_mask.MaskInfo(visit_IT[None], None, run_IT[None], None, range_T)
        self.by_key = stock_mask.MaskInfo(visit_JT.T[None], None, run_JT.T[None], None, range_T)
        self.settings = dict(
            mask_value=stock.DEFAULT_MASK_VALUE,
            is_mqa=False,
            block_sizes=stock.BlockSizes(
                **{f"block_q{use}": self.bq for use in ("", "_dkv", "_dq")},
                **{f"block_kv{use}": self.bk for use in ("", "_dkv", "_dq")},
            ),
            residual_checkpoint_name=None,
            mask_function=see,
            attn_logits_soft_cap=None,
            interpret=kernel.interpret,
        )

    def queries(self, x_BNHK):
        return self._join(blocks.pad(x_BNHK, 1, self.bq))

    def keys(self, x_BSGK):
        return self._join(blocks.pad(x_BSGK, 1, self.bk))

    @staticmethod
    def _join(x_BNHK):
        return x_BNHK.transpose(2, 0, 1, 3).reshape(x_BNHK.shape[2], -1, x_BNHK.shape[3])

    def rows(self, x_HTK, keys: bool = False) -> jax.Array:
        """[B, N, H, K], or [B, S, G, K] of keys, without the padding."""
        heads, _, width = x_HTK.shape
        x_BNHK = x_HTK.reshape(heads, self.batch, -1, width).transpose(1, 2, 0, 3)
        return x_BNHK[:, : self.size if keys else self.length]
