"""Attention of new positions to keys and values that were kept of earlier ones.

A ring keeps the last w positions of a row: position n lies at n mod w. A cache keeps commits in their order.

Legend: B rows, C new positions, N new slots, w places of a ring, P places of a cache, H heads, G key-value heads, R
query heads per key-value head, K head width.
"""

import dataclasses

import jax
import jax.numpy as jnp

from scratchpatch import sharding
from scratchpatch.kernels import choice


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Kept:
    """Keys and values of one layer, in the order of axes that saves the platform from turning them around.

    Attributes:
      keys, values: [B, H, places, K], as products read them; places_first: [B, places, H, K], as a TPU writes them,
        whose compiler would turn the whole cache of a loop to that order and back.
    """

    keys: jax.Array
    values: jax.Array
    places_first: bool = dataclasses.field(metadata={"static": True})

    @staticmethod
    def empty(rows: int, heads: int, places: int, width: int, dtype) -> "Kept":
        """Room for keys and values."""
        places_first = choice.traced_platform() == "tpu"
        shape = (rows, places, heads, width) if places_first else (rows, heads, places, width)
        return Kept(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype), places_first)

    @property
    def places(self) -> int:
        return self.keys.shape[1 if self.places_first else 2]

    @property
    def by_heads(self) -> tuple[jax.Array, jax.Array]:
        """Keys and values [B, H, places, K]."""
        if self.places_first:
            return self.keys.swapaxes(1, 2), self.values.swapaxes(1, 2)
        return self.keys, self.values

    def spread(self, rows: str, heads: str) -> "Kept":
        """The same in its place on the current mesh, by the logical names of its axes."""
        names = (rows, None, heads, None) if self.places_first else (rows, heads, None, None)
        return jax.tree.map(lambda x: sharding.constrain(x, "cache", *names), self)

    def rows(self, row_B) -> "Kept":
        """Those of the rows named; of one that does not exist, those of the last."""
        if not self.places_first:
            return jax.tree.map(lambda x: x.at[row_B].get(mode="clip"), self)

        # Row after row: to gather whole rows a TPU's compiler would turn around the whole cache.
        def take(row):
            return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, row, keepdims=False), self)

        return jax.lax.map(take, row_B)

    def put(self, k_BCHK, v_BCHK, place_BC) -> "Kept":
        """With these at the places given; a place that does not exist takes none."""

        # Row by row, so that a device whose rows these are needs nothing from others.
        @jax.vmap
        def write(x, new_CHK, place_C):
            if self.places_first:
                return x.at[place_C].set(new_CHK.astype(x.dtype), mode="drop")
            return x.at[:, place_C].set(new_CHK.swapaxes(0, 1).astype(x.dtype), mode="drop")

        keys, values = write(self.keys, k_BCHK, place_BC), write(self.values, v_BCHK, place_BC)
        return Kept(keys, values, self.places_first)


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
    places = ring.places
    later = ring.put(k_BCHK, v_BCHK, ring_places(position_BC, valid_BC, places))
    place_w = jnp.arange(places, dtype=jnp.int32)
    scale = q_BCHK.shape[-1] ** -0.5
    if q_BCHK.shape[1] == 1:
        # The ring that has the position itself holds its window and nothing else.
        keys_BHwK, values_BHwK = later.by_heads
        back_B1w = (position_BC - place_w[None])[:, None] % places
        see_B1w = position_BC[..., None] - back_B1w >= start_BC[..., None]
        logits = jnp.einsum("bchk,bhwk->bhcw", q_BCHK, keys_BHwK, preferred_element_type=jnp.float32)
        logits = jnp.where(see_B1w[:, None], logits * scale, -jnp.inf)
        weights = jax.nn.softmax(logits, axis=-1).astype(v_BCHK.dtype)
        return jnp.einsum("bhcw,bhwk->bchk", weights, values_BHwK), later
    keys_BHwK, values_BHwK = ring.by_heads
    before_B1 = position_BC[:, :1] - 1
    kept_Bw = before_B1 - (before_B1 - place_w) % places
    m_BT = jnp.concatenate([jnp.where(kept_Bw < 0, -1, kept_Bw), position_BC], axis=1)
    n_BC1, m_B1T = position_BC[..., None], m_BT[:, None]
    see_BCT = (m_B1T <= n_BC1) & (m_B1T > n_BC1 - places) & (m_B1T >= start_BC[..., None])
    old = jnp.einsum("bchk,bhwk->bhcw", q_BCHK, keys_BHwK, preferred_element_type=jnp.float32)
    new = jnp.einsum("bchk,bthk->bhct", q_BCHK, k_BCHK, preferred_element_type=jnp.float32)
    logits = jnp.where(see_BCT[:, None], jnp.concatenate([old, new], axis=-1) * scale, -jnp.inf)
    weights = jax.nn.softmax(logits, axis=-1).astype(v_BCHK.dtype)
    out = jnp.einsum("bhcw,bhwk->bchk", weights[..., :places], values_BHwK)
    return out + jnp.einsum("bhct,bthk->bchk", weights[..., places:], v_BCHK), later


def staircase(q_BNHK, k_BNGK, v_BNGK, cache: Kept, begin_BN, end_BN) -> jax.Array:
    """`attention.staircase` of new slots: slot i reads the commits [begin_i, end_i) of the cache, and itself."""
    rows, slots, _, width = q_BNHK.shape
    q_BNGRK = q_BNHK.reshape(rows, slots, k_BNGK.shape[2], -1, width)
    scale = width**-0.5
    j_P = jnp.arange(cache.places, dtype=jnp.int32)
    keys_BGPK, values_BGPK = cache.by_heads
    logits = jnp.einsum("bngrk,bgpk->bgrnp", q_BNGRK, keys_BGPK, preferred_element_type=jnp.float32) * scale
    own = jnp.einsum("bngrk,bngk->bgrn", q_BNGRK, k_BNGK, preferred_element_type=jnp.float32) * scale
    see_BNP = (j_P >= begin_BN[..., None]) & (j_P < end_BN[..., None])
    logits = jnp.where(see_BNP[:, None, None], logits, -jnp.inf)
    top = jnp.maximum(logits.max(axis=-1), own)
    weights, own = jnp.exp(logits - top[..., None]), jnp.exp(own - top)
    total = weights.sum(axis=-1) + own
    v_dtype = v_BNGK.dtype
    # XLA's CPU compiler cannot multiply bfloat16 arrays into a float32 one whose axes are in another order.
    out = jnp.einsum("bgrnp,bgpk->bgrnk", weights.astype(v_dtype), values_BGPK, preferred_element_type=jnp.float32)
    out += jnp.einsum("bgrn,bngk->bgrnk", own, v_BNGK.astype(jnp.float32))
    out = (out / total[..., None]).astype(v_dtype)
    return out.transpose(0, 3, 1, 2, 4).reshape(q_BNHK.shape)
