"""What patchifiers and triggers look at: entropies, their jumps, white space, chance.

Every function decides at byte n from byte n and at most `LOOK_BACK` bytes before it in the same document. Legend: B
rows, L byte positions.
"""

import dataclasses

import jax
import jax.numpy as jnp

from scratchpatch.patching.rows import Rows

LOOK_BACK = 3


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Signals:
    """What decisions may read of each byte: the entropy of the next one, float32, in nats; None where none reads it.

    The arrays are [B, L], or [B] where one byte of each row is decided (see `step`).
    """

    entropy_BL: jax.Array | None = None


def entropy_jump(entropy_BL: jax.Array, rows: Rows) -> jax.Array:
    """Entropy at n minus entropy at n-1, in nats; -inf at a document's start.

    BLT's monotonicity rule (arXiv 2412.09871, section 2.3).
    """
    return entropy_BL - rows.previous(entropy_BL, jnp.inf)


def word_end(rows: Rows) -> jax.Array:
    """SpaceByte's rule: the first space-like byte after one that is not; bool [B, L].

    Space-like: ASCII that is no letter and no digit, and UTF-8 lead bytes (0xC0 and above). Continuation bytes are not.
    Source: SpaceByte (arXiv 2404.14408, section 3).
    """
    t = rows.tokens_BL
    letter = ((t >= 0x41) & (t <= 0x5A)) | ((t >= 0x61) & (t <= 0x7A))
    digit = (t >= 0x30) & (t <= 0x39)
    spacelike_BL = ((t < 0x80) & ~letter & ~digit) | ((t >= 0xC0) & (t < rows.vocabulary.bos))
    return spacelike_BL & ~rows.previous(spacelike_BL, False)


def chance(rows: Rows) -> jax.Array:
    """A number in [0, 1) per byte, hashed from its offset and the last three bytes; float32 [B, L]."""
    u = jnp.uint32
    one_BL = rows.previous(rows.tokens_BL, rows.vocabulary.bos)
    two_BL = rows.previous(one_BL, rows.vocabulary.bos)
    x = rows.offset_BL.astype(u)
    for t_BL in (rows.tokens_BL, one_BL, two_BL):
        x = (x ^ (t_BL.astype(u) + u(0x9E3779B9))) * u(0x85EBCA6B)
        x = (x ^ (x >> 13)) * u(0xC2B2AE35)
        x = x ^ (x >> 16)
    return (x >> 8).astype(jnp.float32) / jnp.float32(1 << 24)
