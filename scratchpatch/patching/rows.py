"""The rows of a batch: documents packed one behind the other, and where each of them starts.

Legend: B rows, L byte positions.
"""

import dataclasses

import jax
import jax.numpy as jnp

from scratchpatch.vocabulary import Vocabulary


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """What everything that reads a batch reads of it: made once, where the batch enters the model (see `pack`).

    Attributes:
      tokens_BL: int32, bytes, BOS and PAD.
      start_BL: int32, the position of the BOS of each position's document, or 0 where the row begins inside a document.
      offset_BL: int32, bytes since the document's start: 0 at its BOS.
      valid_BL: bool, False at PAD.
      vocabulary: of the tokens.
    """

    tokens_BL: jax.Array
    start_BL: jax.Array
    offset_BL: jax.Array
    valid_BL: jax.Array
    vocabulary: Vocabulary = dataclasses.field(metadata={"static": True})

    def previous(self, x_BL: jax.Array, fill) -> jax.Array:
        """x at n-1, and `fill`, a scalar or [B, L], at the first position of a document."""
        shifted_BL = jnp.pad(x_BL[:, :-1], ((0, 0), (1, 0)))
        return jnp.where(self.offset_BL == 0, jnp.asarray(fill, x_BL.dtype), shifted_BL)

    def latest(self, mask_BL: jax.Array) -> jax.Array:
        """int32 [B, L]: the latest position <= n of the same document where the mask holds; -1 if there is none."""
        n_L = jnp.arange(mask_BL.shape[1], dtype=jnp.int32)
        last_BL = jax.lax.cummax(jnp.where(mask_BL, n_L, -1), axis=1)
        return jnp.where(last_BL >= self.start_BL, last_BL, -1)

    def ends_BL(self) -> jax.Array:
        """bool [B, L]: the last position of each document in its row, PAD left out."""
        bos, pad = self.vocabulary.bos, self.vocabulary.pad
        next_BL = jnp.pad(self.tokens_BL[:, 1:], ((0, 0), (0, 1)), constant_values=bos)
        return self.valid_BL & ((next_BL == bos) | (next_BL == pad))


def tail(tokens_BK: jax.Array, offset_B: jax.Array, vocabulary: Vocabulary) -> Rows:
    """The last K positions of rows that are read byte by byte, as rows of their own.

    A rule that is evaluated on them and reads at most K - 1 bytes back says of the last position what it says of that
    position in the whole row. Positions before the last one's document have offsets below 0, and of them, or of what
    is further back, nothing is said.

    Args:
      tokens_BK: int32 [B, K], the last of them this byte.
      offset_B: int32 [B], of this byte in its document.
    """
    last = tokens_BK.shape[1] - 1
    n_K = jnp.arange(last + 1, dtype=jnp.int32)
    start_BK = jnp.broadcast_to((last - offset_B)[:, None], tokens_BK.shape)
    return Rows(tokens_BK, start_BK, n_K - start_BK, tokens_BK != vocabulary.pad, vocabulary)


def pack(tokens_BL: jax.Array, vocabulary: Vocabulary) -> Rows:
    """The rows that hold these tokens, int32 [B, L]."""
    n_L = jnp.arange(tokens_BL.shape[1], dtype=jnp.int32)
    start_BL = jax.lax.cummax(jnp.where(tokens_BL == vocabulary.bos, n_L, 0), axis=1)
    return Rows(tokens_BL, start_BL, n_L - start_BL, tokens_BL != vocabulary.pad, vocabulary)
