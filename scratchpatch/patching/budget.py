"""A causal budget, private to each document.

Static slot arrays need a bound on commits and scratchpads. By byte n a document may have made
floor(capacity * (n - bos + 1)) of each: the sum over a row never exceeds capacity * L, no document can take another's
share, and nothing looks ahead. `grant` decides whole rows, `step` one byte of each. Legend: B rows, L byte positions.
"""

from fractions import Fraction

import jax
import jax.numpy as jnp

from scratchpatch.patching.rows import Rows

_NEVER = -(1 << 20)  # below any credit that a row can gather


def grant(request_BL: jax.Array, rows: Rows, capacity: Fraction) -> jax.Array:
    """bool [B, L]: the requests that the budget can pay, first come first served.

    The slack y (credits gathered minus requests granted) obeys Lindley's recursion y' = max(y + credit - request, 0),
    restarted at each document. Maps y -> max(y + a, b) compose, so it is an associative scan.
    """
    if capacity >= 1:
        return request_BL

    credit_BL = _credit(rows.offset_BL, capacity)
    net_BL = credit_BL - request_BL.astype(jnp.int32)
    # The first position of a document forgets the slack before it.
    a_BL = jnp.where(rows.offset_BL == 0, _NEVER, net_BL)
    b_BL = jnp.maximum(net_BL, 0)

    def compose(first, then):
        (a1, b1), (a2, b2) = first, then
        return jnp.maximum(a1 + a2, _NEVER), jnp.maximum(b1 + a2, b2)

    _, slack_BL = jax.lax.associative_scan(compose, (a_BL, b_BL), axis=1)
    return request_BL & (rows.previous(slack_BL, 0) + credit_BL > 0)


def step(slack_B: jax.Array, request_B: jax.Array, offset_B: jax.Array, capacity: Fraction):
    """What `grant` decides, for one byte of each row.

    Args:
      slack_B: int32 [B], what this function returned for the byte before; 0 at the row's start.
      request_B: bool [B].
      offset_B: int32 [B], of this byte in its document.
    Returns:
      granted_B bool [B]; slack_B int32 [B], for the next byte.
    """
    if capacity >= 1:
        return request_B, slack_B
    paid_B = jnp.where(offset_B == 0, 0, slack_B) + _credit(offset_B, capacity)
    return request_B & (paid_B > 0), jnp.maximum(paid_B - request_B, 0)


def _credit(offset: jax.Array, capacity: Fraction) -> jax.Array:
    """What the byte at an offset adds: floor(capacity * (offset + 1)) - floor(capacity * offset), int32."""
    p, q = capacity.numerator, capacity.denominator
    # Remainders first, so that no product overflows, however long the document is.
    return (offset % q * p % q + p) // q
