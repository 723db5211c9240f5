"""What patchifiers and triggers look at: entropies, their jumps, white space, chance.

Every function decides at byte n from bytes <= n of the same document alone.
Legend: B rows, L byte positions.
"""

import jax
import jax.numpy as jnp

from scratchpatch.patching import documents
from scratchpatch.vocabulary import BOS


def entropy_jump(entropy_BL: jax.Array, start_BL: jax.Array) -> jax.Array:
    """Entropy at n minus entropy at n-1, in nats; -inf at a document's start.

    BLT's monotonicity rule (arXiv 2412.09871, section 2.3).
    """
    before_BL = documents.previous(entropy_BL, start_BL, jnp.inf)
    return entropy_BL - before_BL


def word_end(tokens_BL: jax.Array, start_BL: jax.Array) -> jax.Array:
    """SpaceByte's rule: the first space-like byte after one that is not.

    Space-like: ASCII that is no letter and no digit, and UTF-8 lead bytes
    (0xC0 and above). Continuation bytes are not. Source: SpaceByte (arXiv
    2404.14408, section 3).
    """
    t = tokens_BL
    letter = ((t >= 0x41) & (t <= 0x5A)) | ((t >= 0x61) & (t <= 0x7A))
    digit = (t >= 0x30) & (t <= 0x39)
    spacelike_BL = ((t < 0x80) & ~letter & ~digit) | ((t >= 0xC0) & (t < BOS))
    return spacelike_BL & ~documents.previous(spacelike_BL, start_BL, False)


def chance(tokens_BL: jax.Array, start_BL: jax.Array) -> jax.Array:
    """A number in [0, 1) per byte, hashed from its offset and the last three bytes.

    The same in every pass over the same text, in training and in decoding, so
    that a `random` trigger is as repeatable as any other. float32 [B, L].
    """
    u = jnp.uint32
    one_BL = documents.previous(tokens_BL, start_BL, BOS)
    two_BL = documents.previous(one_BL, start_BL, BOS)
    x = documents.offsets(start_BL).astype(u)
    for t_BL in (tokens_BL, one_BL, two_BL):
        x = (x ^ (t_BL.astype(u) + u(0x9E3779B9))) * u(0x85EBCA6B)
        x = (x ^ (x >> 13)) * u(0xC2B2AE35)
        x = x ^ (x >> 16)
    return (x >> 8).astype(jnp.float32) / jnp.float32(1 << 24)
