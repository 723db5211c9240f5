"""The trunk: the big model over slots. Legend: B rows, N slots, D trunk width."""

import jax
import jax.numpy as jnp
from flax import nnx

from scratchpatch import sharding
from scratchpatch.kernels import attention, diagonal
from scratchpatch.model import layers, ssm
from scratchpatch.model.pooling import take
from scratchpatch.model.stack import Stack
from scratchpatch.patching.layout import Layout
from scratchpatch.patching.slots import Slots


class Trunk(nnx.Module):
    """Each slot reads the commits before it in its document, and itself.

    transformer: by attention; its RoPE position is the number of those commits, so a scratchpad stands where its
    patch's commit will stand. ssm: by a state that the commits made, with which the slot takes one step; a scratchpad's
    step is not written back.
    """

    def __init__(self, config, rngs: nnx.Rngs):
        m, t = config.model, config.model.trunk
        dtype = layers.activation_dtype(config)
        self.backend, self.recurrent = config.kernels.staircase, t.kind == "ssm"
        shape = t.d_model, t.heads, t.kv_heads or t.heads

        def make(rngs):
            if self.recurrent:
                return ssm.Block(m, t.d_model, "trunk", sharding.TRUNK, t.layers, dtype, rngs)
            return layers.Block(m, *shape, "trunk", sharding.TRUNK, t.layers, dtype, rngs)

        self.stack = Stack(make, t.layers, config.training.remat, rngs)
        self.norm = layers.norm(t.d_model, m.norm_eps, dtype, rngs) if t.final_norm else None

    def __call__(self, x_BND, layout: Layout) -> jax.Array:
        """Slot states [B, N, D]."""
        z_BND = self._recur(x_BND, layout.slots) if self.recurrent else self._attend(x_BND, layout.slots)
        return z_BND if self.norm is None else self.norm(z_BND)

    def _attend(self, x_BND, slots: Slots) -> jax.Array:
        begin_BN, end_BN = (
            layers.pin(x, "trunk.ranges", sharding.TRUNK) for x in (slots.seen_from_BN, slots.seen_to_BN)
        )
        position_BN = end_BN - begin_BN

        def attend(q, k, v):
            return attention.staircase(q, k, v, begin_BN, end_BN, slots.commits, self.backend)

        x_BND = layers.pin(x_BND, "trunk.input", sharding.TRUNK, None)
        return self.stack(x_BND, lambda layer, x: layer(x, position_BN, attend))

    def _recur(self, x_BND, slots: Slots) -> jax.Array:
        """In the order of bytes: scratchpads between the commits whose state they read. All else of a layer is of one
        slot, so that the order is changed once, and not in every layer.
        """
        n_N = jnp.arange(x_BND.shape[1], dtype=jnp.int32)
        kept_BN = slots.valid_BN & (n_N < slots.commits)
        fresh_BN = slots.seen_from_BN == slots.seen_to_BN
        mixed = len(n_N) > slots.commits
        if mixed:
            # Slots that are not used come last.
            order_BN = jnp.argsort(jnp.where(slots.valid_BN, slots.end_BN, jnp.iinfo(jnp.int32).max), axis=1)
            place_BN = jnp.argsort(order_BN, axis=1)
            kept_BN, fresh_BN = (jnp.take_along_axis(x, order_BN, axis=1) for x in (kept_BN, fresh_BN))
            # Slots stand elsewhere in the row, on other devices too.
            x_BND = take(sharding.constrain(x_BND, "trunk.order", sharding.TRUNK.rows, None, None), order_BN)
        kept_BN, fresh_BN = (layers.pin(x, "trunk.ranges", sharding.TRUNK) for x in (kept_BN, fresh_BN))

        def mix(system, u_BNe, step):
            return diagonal.mix(system, u_BNe, step, fresh_BN, sharding.TRUNK, kept_BN)

        x_BND = layers.pin(x_BND, "trunk.input", sharding.TRUNK, None)
        z_BND = self.stack(x_BND, lambda layer, x: layer(x, n_N, mix))
        if not mixed:
            return z_BND
        z_BND = take(sharding.constrain(z_BND, "trunk.order", sharding.TRUNK.rows, None, None), place_BN)
        return layers.pin(z_BND, "trunk.output", sharding.TRUNK, None)
