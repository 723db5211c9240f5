"""Decoder: byte states meet the trunk's context.

Legend: B rows, L byte positions, N slots, D trunk width, d byte width, V
vocabulary, H heads, K head width, k context vectors per slot.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from scratchpatch import sharding
from scratchpatch.model import layers, router, stack
from scratchpatch.model.heads import Logits
from scratchpatch.model.pooling import take
from scratchpatch.model.smoothing import smooth
from scratchpatch.patching.layout import Layout


class CrossAttention(nnx.Module):
    """A byte reads the k vectors of its context slot; its own state is added `residual` times."""

    def __init__(self, d: int, heads: int, residual: int, eps: float, out_scale: float, dtype, rngs: nnx.Rngs):
        self.heads, self.residual = heads, residual
        self.norm = layers.norm(d, eps, dtype, rngs)
        self.context_norm = layers.norm(d, eps, dtype, rngs)
        self.q = layers.linear(d, d, ("width", "local_inner"), dtype, rngs)
        self.k = layers.linear(d, d, ("width", "local_inner"), dtype, rngs)
        self.v = layers.linear(d, d, ("width", "local_inner"), dtype, rngs)
        self.o = layers.linear(d, d, ("local_inner", "width"), dtype, rngs, out_scale)

    def offers(self, context_BNkd) -> tuple[jax.Array, jax.Array]:
        """Keys and values [B, N, k, H, K] of the slots: projected before bytes gather them, since slots are fewer."""
        c_BNkd = self.context_norm(context_BNkd)
        return self._heads(self.k(c_BNkd)), self._heads(self.v(c_BNkd))

    def __call__(self, x_BLd, k_BLkHK, v_BLkHK) -> jax.Array:
        """Byte states that have read the keys and values of their own slots."""
        q_BLHK = self._heads(self.q(self.norm(x_BLd)))
        logits = jnp.einsum("blhk,blchk->blhc", q_BLHK, k_BLkHK, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits * q_BLHK.shape[-1] ** -0.5, axis=-1).astype(x_BLd.dtype)
        out_BLd = jnp.einsum("blhc,blchk->blhk", weights, v_BLkHK).reshape(x_BLd.shape)
        return self.residual * x_BLd + self.o(out_BLd)

    def _heads(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:-1], self.heads, -1)


class CrossBlock(nnx.Module):
    """Cross-attention to the context, then a window layer."""

    def __init__(self, config, dtype, rngs: nnx.Rngs):
        m, t = config.model, config.model.decoder
        out_scale = (2 * t.layers) ** -0.5
        self.cross = CrossAttention(m.d_byte, t.heads, m.cross_residual, m.norm_eps, out_scale, dtype, rngs)
        self.block = stack.window_block("decoder", config, t.heads, t.layers, dtype, rngs)


class Decoder(nnx.Module):
    """Context of the latest slot, if there is a trunk, joined to the byte states; window layers, logits.

    add: the context, projected, is added at the input. cross_attention: every layer reads the slot's k vectors (BLT,
    arXiv 2412.09871, section 3.3). Until a document's first slot, bytes read a learned null context. at_slot: the
    context is added at the slot's own byte alone, and other bytes learn of it through the window layers (SpaceByte,
    arXiv 2404.14408, section 3, whose projection is a slice of the trunk's channels); there is no null context.

    scope: patch: window layers reach back to the latest commit and no further, and positions count from there
    (MegaByte, arXiv 2305.07185, section 2.3). Scratchpads begin no scope.

    Learned patches: contexts may be smoothed, and are read with the router's confidence (by cross-attention, its
    values; that is ours). residual: projected adds not the byte states but a projection of them, all zeros at first,
    in float32 (H-Net, arXiv 2507.07955).
    """

    def __init__(self, config, rngs: nnx.Rngs):
        m, t = config.model, config.model.decoder
        dtype = layers.activation_dtype(config)
        self.vectors = t.context_vectors if t.injection == "cross_attention" else 0
        self.window, self.backend, self.scope = t.window, config.kernels.window, t.scope
        self.trunkless, self.at_slot = m.trunk.kind == "none", t.injection == "at_slot"
        names = ("width", "local_inner")
        if not self.trunkless:
            # Its key is drawn in any case, so that the rest begins equal.
            null_D = jax.random.normal(rngs.params(), (m.trunk.d_model,), jnp.float32) * 0.02
            self.null = None if self.at_slot else nnx.Param(null_D)
            self.context = layers.linear(m.trunk.d_model, max(self.vectors, 1) * m.d_byte, names, dtype, rngs)
        if self.vectors:
            remat = config.training.remat
            self.stack = stack.Stack(lambda rngs: CrossBlock(config, dtype, rngs), t.layers, remat, rngs)
        else:
            self.stack = stack.ByteTier("decoder", config, t.layers, t.heads, t.window, dtype, rngs)
        self.logits = Logits("decoder", config, dtype, rngs)
        self.smooths = m.smoothing
        # Made last, so that it changes the first numbers of no other parameter.
        self.residual = None if t.residual == "identity" else layers.linear(
            m.d_byte, m.d_byte, names, jnp.float32, rngs, init=nnx.initializers.zeros_init()
        )

    def __call__(self, h_BLd, z_BND, layout: Layout) -> jax.Array:
        """Logits [B, L, V] from byte states and slot states."""
        if self.trunkless:
            return self.logits(self.stack(h_BLd, layout.rows))
        rows = layout.segments() if self.scope == "patch" else layout.rows
        c_BNd, index_BL = self.contexts(z_BND), layout.slots.context_BL
        if self.at_slot:
            index_BL = jnp.where(layout.commit_BL | layout.scratchpad_BL, index_BL, z_BND.shape[1])
        if self.smooths:
            c_BNd = self._smoothed(c_BNd, layout)

        def trusted(x):
            if layout.boundary_BL is None:
                return x
            return router.confident(x, router.confidence(layout.boundary_BL, layout.commit_BL))

        if not self.vectors:
            context_BLd = trusted(take(c_BNd, index_BL))
            return self.logits(self.stack(self.join(h_BLd, context_BLd), rows))
        c_BNkd = c_BNd.reshape(*c_BNd.shape[:2], self.vectors, -1)

        def run(layer, x_BLd):
            k_BLkHK, v_BLkHK = (take(x, index_BL) for x in layer.cross.offers(c_BNkd))
            x_BLd = layer.cross(x_BLd, k_BLkHK, trusted(v_BLkHK))
            return stack.run_window(layer.block, x_BLd, rows, self.window, self.backend)

        return self.logits(self.stack(h_BLd, run))

    def join(self, h_BLd, context_BLd) -> jax.Array:
        """What the layers read of byte states and of what was injected by adding, [B, L, d]."""
        if self.residual is None:
            return h_BLd + context_BLd
        return (context_BLd.astype(jnp.float32) + self.residual(h_BLd)).astype(h_BLd.dtype)

    def _smoothed(self, c_BNd, layout: Layout) -> jax.Array:
        """Contexts [B, N + 1, d] of which those of commits are smoothed."""
        slots, p = layout.slots, layout.slots.commits
        # Every device of a row has all of its contexts, and so it needs all of its probabilities.
        boundary_BL = sharding.constrain(layout.boundary_BL, "decoder.boundary", "local_rows", None)
        p_BP = take(boundary_BL, slots.end_BN[:, :p])
        first_BP = slots.seen_from_BN[:, :p] == slots.seen_to_BN[:, :p]
        z_BPd, _ = smooth(c_BNd[:, :p], p_BP, jnp.ones_like(first_BP), first_BP, c_BNd[:, -1])
        return jnp.concatenate([z_BPd.astype(c_BNd.dtype), c_BNd[:, p:]], axis=1)

    def contexts(self, z_BND) -> jax.Array:
        """What bytes read of each slot [B, N + 1, d], or k vectors joined; the last one is the null context, or zeros
        where there is none.
        """
        # Zeros are projected to zeros.
        null_D = jnp.zeros(z_BND.shape[2:], jnp.float32) if self.null is None else self.null.get_value()
        # Broadcast as float32, so that its gradient is summed in float32.
        null_B1D = jnp.broadcast_to(null_D, (z_BND.shape[0], 1, z_BND.shape[2])).astype(z_BND.dtype)
        c_BNd = self.context(jnp.concatenate([z_BND, null_B1D], axis=1))
        # Bytes read slots at other positions: those of the whole row.
        return sharding.constrain(c_BNd, "decoder.context", "local_rows", None, None)
