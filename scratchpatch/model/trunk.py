"""The trunk: a transformer over slots. Legend: B rows, N slots, D trunk width."""

import jax
from flax import nnx

from scratchpatch import sharding
from scratchpatch.kernels import attention
from scratchpatch.model import layers
from scratchpatch.model.stack import Stack
from scratchpatch.patching.layout import Layout


class Trunk(nnx.Module):
    """Each slot reads the commits before it in its document, and itself.

    Its RoPE position is the number of those commits, so a scratchpad stands where its patch's commit will stand.
    """

    def __init__(self, config, rngs: nnx.Rngs):
        m, t = config.model, config.model.trunk
        dtype = layers.activation_dtype(config)
        self.backend = config.kernels.staircase
        shape = t.d_model, t.heads, t.kv_heads or t.heads

        def make(rngs):
            return layers.Block(m, *shape, "trunk", sharding.TRUNK, t.layers, dtype, rngs)

        self.stack = Stack(make, t.layers, config.training.remat, rngs)
        self.norm = layers.norm(t.d_model, m.norm_eps, dtype, rngs) if t.final_norm else None

    def __call__(self, x_BND, layout: Layout) -> jax.Array:
        """Slot states [B, N, D]."""
        slots = layout.slots
        begin_BN, end_BN = (
            layers.pin(x, "trunk.ranges", sharding.TRUNK) for x in (slots.seen_from_BN, slots.seen_to_BN)
        )
        position_BN = end_BN - begin_BN

        def attend(q, k, v):
            return attention.staircase(q, k, v, begin_BN, end_BN, slots.commits, self.backend)

        x_BND = layers.pin(x_BND, "trunk.input", sharding.TRUNK, None)
        z_BND = self.stack(x_BND, lambda layer, x: layer(x, position_BN, attend))
        return z_BND if self.norm is None else self.norm(z_BND)
