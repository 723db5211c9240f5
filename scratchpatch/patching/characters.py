"""UTF-8 characters: whether a byte leaves one open, and requests that wait until it is complete.

Bytes that are not UTF-8 delay nothing by more than three bytes. Legend: B rows, L byte positions.
"""

import jax
import jax.numpy as jnp

from scratchpatch.patching.rows import Rows


def inside(rows: Rows) -> jax.Array:
    """bool [B, L]: whether the bytes up to this one end in the beginning of a character that further bytes complete.

    Well-formed are the sequences of the Unicode Standard, Table 3-7: no overlong forms, no surrogates, nothing above
    U+10FFFF. A beginning that no byte could complete is no open character. One place is left out: a byte that breaks
    off one character as it begins the next, since a text of such bytes alone would otherwise never be outside. Three
    bytes back are read.
    """
    zero_BL = rows.tokens_BL
    one_BL = rows.previous(zero_BL, rows.vocabulary.bos)
    two_BL = rows.previous(one_BL, rows.vocabulary.bos)
    first_BL = _between(zero_BL, 0xC2, 0xF4)
    second_BL = _between(one_BL, 0xE0, 0xF4) & _follows(one_BL, zero_BL)
    third_BL = _between(two_BL, 0xF0, 0xF4) & _follows(two_BL, one_BL) & _between(zero_BL, 0x80, 0xBF)
    open_BL = first_BL | second_BL | third_BL
    return open_BL & ~(first_BL & rows.previous(open_BL, False))


def hold(asked_BL: jax.Array, inside_BL: jax.Array, rows: Rows) -> jax.Array:
    """bool [B, L]: requests (bool [B, L]), each moved to the byte that completes the character it was made in.

    Several requests in one character become one. Where the character breaks off, the request is granted at the next
    byte; where the document ends before, it is dropped.
    """
    whole_BL = rows.valid_BL & ~inside_BL
    complete_before_BL = rows.previous(rows.latest(whole_BL), -1)
    return whole_BL & (rows.latest(asked_BL) > complete_before_BL)


def hold_step(asked_B: jax.Array, inside_B: jax.Array, held_B: jax.Array, offset_B: jax.Array):
    """What `hold` decides, for one byte of each row, none of them PAD.

    Args:
      held_B: bool [B], what this function returned for the byte before; read where offset_B > 0.
      offset_B: int32 [B], of this byte in its document.
    Returns:
      asked_B bool [B]; held_B bool [B], for the next byte.
    """
    asked_B |= held_B & (offset_B > 0)
    return asked_B & ~inside_B, asked_B & inside_B


def _between(t: jax.Array, low: int, high: int) -> jax.Array:
    return (t >= low) & (t <= high)


def _follows(lead: jax.Array, t: jax.Array) -> jax.Array:
    """Whether a byte can come second after this one, the first of a character of three or four bytes."""
    low = jnp.select([lead == 0xE0, lead == 0xF0], [0xA0, 0x90], 0x80)
    high = jnp.select([lead == 0xED, lead == 0xF4], [0x9F, 0x8F], 0xBF)
    return (t >= low) & (t <= high)
