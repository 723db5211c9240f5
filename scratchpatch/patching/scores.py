"""What patchifiers and triggers look at: entropies, their jumps, white space, chance.

Every function decides at byte n from byte n and at most `LOOK_BACK` bytes before it in the same document. Legend: B
rows, L byte positions.
"""

import dataclasses

import jax
import jax.numpy as jnp

from scratchpatch.patching.rows import Rows

LOOK_BACK = 3
# A learned patch ends where the router's probability is above this (H-Net, arXiv 2507.07955, whose code decides a tie
# so; its formula counts a tie as a boundary).
LIKELY = 0.5


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Signals:
    """What decisions may read of each byte; None where none reads it.

    The first axes of the arrays are [B, L], or [B] where one byte of each row is decided (see `step`).

    Attributes:
      entropy_BL: of the next byte, float32, nats.
      benefit_BLM: what a scratchpad here is thought to save, float32; by M ages of the context, or one for all of them.
        In deviations from the mean; of the `oracle` in nats.
      boundary_BL: the router's probability that a patch ends here, float32; see `model.router`.
    """

    entropy_BL: jax.Array | None = None
    benefit_BLM: jax.Array | None = None
    boundary_BL: jax.Array | None = None


# Bytes of the open patch, as ages of the context: 1, 2 to 3, 4 to 7, ..., 64 and more.
AGES = 7


def age(patch_bytes_BL: jax.Array) -> jax.Array:
    """int32 [B, L]: the age of the context by the bytes of the open patch, this one included."""
    return jnp.minimum(31 - jax.lax.clz(jnp.maximum(patch_bytes_BL, 1).astype(jnp.int32)), AGES - 1)


def benefit(benefit_BLM: jax.Array, patch_bytes_BL: jax.Array) -> jax.Array:
    """exp(x / 2) of the benefit x at the context's age, float32 [B, L].

    A controller moves the logarithm of its threshold, so a score must be positive. Of x in deviations, 1 is the mean,
    and the logarithms differ by about as much as those of entropies. The highest threshold of a controller is 3.4
    deviations above the mean.
    """
    index_BL = jnp.minimum(age(patch_bytes_BL), benefit_BLM.shape[-1] - 1)
    x_BL = jnp.take_along_axis(benefit_BLM, index_BL[..., None], axis=-1)[..., 0]
    return jnp.exp(jnp.clip(x_BL, -60.0, 60.0) / 2)


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


def after(rows: Rows, marks: tuple[str, ...]) -> jax.Array:
    """Whether the bytes of the document up to this one end with one of the marks; bool [B, L].

    A mark has at most LOOK_BACK + 1 bytes.
    """
    ends_BL = jnp.zeros(rows.tokens_BL.shape, bool)
    for mark in marks:
        *before, last = mark.encode(errors="surrogateescape")
        hit_BL, token_BL = rows.tokens_BL == last, rows.tokens_BL
        for byte in reversed(before):
            token_BL = rows.previous(token_BL, rows.vocabulary.bos)
            hit_BL &= token_BL == byte
        ends_BL |= hit_BL
    return ends_BL


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
