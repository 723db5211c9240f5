"""New bytes in their places: layers of a byte tier that carry on from what they kept, and rings of the last bytes.

Legend: B rows, C new positions, L places, M places of a ring, d width of what a place holds.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from scratchpatch.kernels import attention, diagonal
from scratchpatch.model import ssm
from scratchpatch.model.pooling import take


def layers_of(stack):
    """The layers of a stack one by one, for a module to hold; none of None."""
    return nnx.data(() if stack is None else stack.separate())


@dataclasses.dataclass(frozen=True)
class Place:
    """Where new bytes stand in their rows."""

    position_BC: jax.Array
    start_BC: jax.Array
    valid_BC: jax.Array

    def through(self, layers, x_BCd, rings, cross=None):
        """Byte states after the layers of a byte tier, and its rings; cross: what each layer reads of contexts."""
        later = []
        for i, (layer, ring) in enumerate(zip(layers, rings, strict=True)):

            def attend(q, k, v, ring=ring):
                out, new = attention.cached_window(q, k, v, ring, self.position_BC, self.start_BC, self.valid_BC)
                later.append(new)
                return out

            def mix(system, u_BCe, step, state=ring):
                fresh_BC = self.position_BC == self.start_BC
                y_BCe, new = diagonal.carry_on(system, u_BCe, step, fresh_BC, self.valid_BC, state)
                later.append(new)
                return y_BCe

            if cross is not None:
                x_BCd = layer.cross(x_BCd, *cross[i])
                layer = layer.block
            mixer = mix if isinstance(layer, ssm.Block) else attend
            x_BCd = layer(x_BCd, self.position_BC - self.start_BC, mixer)
        return x_BCd, tuple(later)


def last(x_BC, count_B, otherwise_B):
    """x at the last of the first `count` positions; `otherwise` where there is none."""
    last_B = take(x_BC, jnp.maximum(count_B - 1, 0)[:, None])[:, 0]
    return where(count_B > 0, last_B, otherwise_B)


def where(row_B, new, old):
    """Row by row of trees of arrays whose first axis is the row."""
    return jax.tree.map(lambda a, b: jnp.where(row_B.reshape(-1, *(1,) * (a.ndim - 1)), a, b), new, old)


@jax.vmap
def replaced(x_BL, index_BC, new_BC):
    """x with others at these places of each row, but for places that do not exist. As `take`, local to the row."""
    return x_BL.at[index_BC].set(new_BC, mode="drop")


def joined(position_B, ring_BMd, new_BCd):
    """[B, M + C, d]: the last M bytes that a ring has, in their order, and the new ones, the first at position_B."""
    limit = ring_BMd.shape[1]
    index_BM = (position_B[:, None] + jnp.arange(limit, dtype=jnp.int32)) % limit
    return jnp.concatenate([take(ring_BMd, index_BM), new_BCd.astype(ring_BMd.dtype)], axis=1)


def put(position_BC, valid_BC, ring_BMd, new_BCd):
    """The ring [B, M, d] with the last M of the new bytes."""
    place_BC = attention.ring_places(position_BC, valid_BC, ring_BMd.shape[1])
    return replaced(ring_BMd, place_BC, new_BCd.astype(ring_BMd.dtype))
