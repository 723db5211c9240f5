"""Attention of new positions to keys and values that were kept of earlier ones.

A ring keeps the last w positions of a row: position n lies at n mod w. A cache keeps commits in their order.

Legend: B rows, C new positions, N new slots, w places of a ring, P places of a cache, H heads, G key-value heads, R
query heads per key-value head, K head width.
"""

import dataclasses

import jax
import jax.numpy as jnp


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kept:
    """Keys and values of one layer [B, H, places, K]: heads come before places, as products read them."""

    keys: jax.Array
    values: jax.Array

    @staticmethod
    def empty(rows: int, heads: int, places: int, width: int, dtype) -> "Kept":
        """Room for keys and values."""
        return Kept(*(jnp.zeros((rows, heads, places, width), dtype) for _ in range(2)))

    def rows(self, row_B) -> "Kept":
        """Those of the rows named; of one that does not exist, those of the last."""
        return Kept(*(x.at[row_B].get(mode="clip") for x in (self.keys, self.values)))

    def put(self, k_BCHK, v_BCHK, place_BC, row_B=None) -> "Kept":
        """With these at the places given, of all rows or of those named; a place or a row that does not exist takes
        none.
        """

        def write(x, new_BCHK):
            row_B1 = (jnp.arange(x.shape[0]) if row_B is None else row_B)[:, None]
            return x.at[row_B1, :, place_BC].set(new_BCHK.astype(x.dtype), mode="drop")

        return Kept(write(self.keys, k_BCHK), write(self.values, v_BCHK))


def ring_places(position_BC, valid_BC, places: int) -> jax.Array:
    """int32 [B, C]: where each position lies in a ring; `places`, which is nowhere, for those that later ones replace.

    valid_BC: bool; positions that are not come last in their row, and lie nowhere.
    """
    latest_B1 = position_BC[:, :1] + valid_BC.sum(axis=1, keepdims=True, dtype=jnp.int32) - 1
    return jnp.where(valid_BC & (position_BC > latest_B1 - places), position_BC % places, places)


def window(q_BCHK, k_BCHK, v_BCHK, ring: Kept, position_BC, start_BC, valid_BC) -> tuple[jax.Array, Kept]:
    """`attention.window` of the next C positions of each row, and the ring with their keys and values.

    A window of w bytes is a ring of w places.

    Args:
      position_BC: int32, in the row, one after the other.
      start_BC: int32, where the position's document starts.
      valid_BC: bool; those that are not come last, and leave nothing in the ring.
    """
    places = ring.keys.shape[2]
    later = ring.put(k_BCHK, v_BCHK, ring_places(position_BC, valid_BC, places))
    place_w = jnp.arange(places, dtype=jnp.int32)
    scale = q_BCHK.shape[-1] ** -0.5
    if q_BCHK.shape[1] == 1:
        # The ring that has the position itself holds its window and nothing else.
        back_B1w = (position_BC - place_w[None])[:, None] % places
        see_B1w = position_BC[..., None] - back_B1w >= start_BC[..., None]
        logits = jnp.einsum("bchk,bhwk->bhcw", q_BCHK, later.keys, preferred_element_type=jnp.float32)
        logits = jnp.where(see_B1w[:, None], logits * scale, -jnp.inf)
        weights = jax.nn.softmax(logits, axis=-1).astype(v_BCHK.dtype)
        return jnp.einsum("bhcw,bhwk->bchk", weights, later.values), later
    before_B1 = position_BC[:, :1] - 1
    kept_Bw = before_B1 - (before_B1 - place_w) % places
    m_BT = jnp.concatenate([jnp.where(kept_Bw < 0, -1, kept_Bw), position_BC], axis=1)
    n_BC1, m_B1T = position_BC[..., None], m_BT[:, None]
    see_BCT = (m_B1T <= n_BC1) & (m_B1T > n_BC1 - places) & (m_B1T >= start_BC[..., None])
    old = jnp.einsum("bchk,bhwk->bhcw", q_BCHK, ring.keys, preferred_element_type=jnp.float32)
    new = jnp.einsum("bchk,bthk->bhct", q_BCHK, k_BCHK, preferred_element_type=jnp.float32)
    logits = jnp.where(see_BCT[:, None], jnp.concatenate([old, new], axis=-1) * scale, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(v_BCHK.dtype)
    out = jnp.einsum("bhcw,bhwk->bchk", weights[..., :places], ring.values)
    return out + jnp.einsum("bhct,bthk->bchk", weights[..., places:], v_BCHK), later


def staircase(q_BNHK, k_BNGK, v_BNGK, cache: Kept, begin_BN, end_BN) -> jax.Array:
    """`attention.staircase` of new slots: slot i reads the commits [begin_i, end_i) of the cache, and itself."""
    rows, slots, _, width = q_BNHK.shape
    q_BNGRK = q_BNHK.reshape(rows, slots, k_BNGK.shape[2], -1, width)
    scale = width**-0.5
    j_P = jnp.arange(cache.keys.shape[2], dtype=jnp.int32)
    logits = jnp.einsum("bngrk,bgpk->bgrnp", q_BNGRK, cache.keys, preferred_element_type=jnp.float32) * scale
    own = jnp.einsum("bngrk,bngk->bgrn", q_BNGRK, k_BNGK, preferred_element_type=jnp.float32) * scale
    see_BNP = (j_P >= begin_BN[..., None]) & (j_P < end_BN[..., None])
    logits = jnp.where(see_BNP[:, None, None], logits, -jnp.inf)
    top = jnp.maximum(logits.max(axis=-1), own)
    weights, own = jnp.exp(logits - top[..., None]), jnp.exp(own - top)
    total = weights.sum(axis=-1) + own
    v_dtype = v_BNGK.dtype
    # XLA's CPU compiler cannot multiply bfloat16 arrays into a float32 one whose axes are in another order.
    out = jnp.einsum("bgrnp,bgpk->bgrnk", weights.astype(v_dtype), cache.values, preferred_element_type=jnp.float32)
    out += jnp.einsum("bgrn,bngk->bgrnk", own, v_BNGK.astype(jnp.float32))
    out = (out / total[..., None]).astype(v_dtype)
    return out.transpose(0, 3, 1, 2, 4).reshape(q_BNHK.shape)
