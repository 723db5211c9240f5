"""Decoder: byte states meet the trunk's context.

Legend: B rows, L byte positions, N slots, D trunk width, d byte width, V
vocabulary, H heads, K head width, k context vectors per slot.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from scratchpatch.model import layers, local
from scratchpatch.model.logits import Logits
from scratchpatch.model.pooling import take
from scratchpatch.model.stack import Stack
from scratchpatch.sharding import constrain


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

    def __call__(self, x_BLd, context_BNkd, index_BL) -> jax.Array:
        split = lambda y: y.reshape(*y.shape[:-1], self.heads, -1)  # noqa: E731
        c_BNkd = self.context_norm(context_BNkd)
        # Projected per slot, then gathered per byte: slots are fewer than bytes.
        k_BLkHK = take(split(self.k(c_BNkd)), index_BL)
        v_BLkHK = take(split(self.v(c_BNkd)), index_BL)
        q_BLHK = split(self.q(self.norm(x_BLd)))
        logits = jnp.einsum("blhk,blchk->blhc", q_BLHK, k_BLkHK, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits * q_BLHK.shape[-1] ** -0.5, axis=-1).astype(x_BLd.dtype)
        out_BLd = jnp.einsum("blhc,blchk->blhk", weights, v_BLkHK).reshape(x_BLd.shape)
        return self.residual * x_BLd + self.o(out_BLd)


class CrossBlock(nnx.Module):
    """Cross-attention to the context, then a window layer."""

    def __init__(self, config, dtype, rngs: nnx.Rngs):
        m, t = config.model, config.model.decoder
        out_scale = (2 * t.layers) ** -0.5
        self.cross = CrossAttention(m.d_byte, t.heads, m.cross_residual, m.norm_eps, out_scale, dtype, rngs)
        self.block = layers.Block(m, m.d_byte, t.heads, t.heads, layers.local("decoder"), t.layers, dtype, rngs)


class Decoder(nnx.Module):
    """Context of the latest slot, if there is a trunk, joined to the byte states; window layers, logits.

    add: the context, projected, is added at the input. cross_attention: every
    layer reads the slot's k vectors (BLT, arXiv 2412.09871, section 3.3).
    Until a document's first slot, bytes read a learned null context.
    """

    def __init__(self, config, rngs: nnx.Rngs):
        m, t = config.model, config.model.decoder
        dtype = local.activation_dtype(config)
        self.vectors = t.context_vectors if t.injection == "cross_attention" else 0
        self.window, self.backend = t.window, config.kernels.window
        self.trunkless = m.trunk.kind == "none"
        if not self.trunkless:
            self.null = nnx.Param(jax.random.normal(rngs.params(), (m.trunk.d_model,), jnp.float32) * 0.02)
        if self.vectors:
            out = self.vectors * m.d_byte
            self.context = layers.linear(m.trunk.d_model, out, ("width", "local_inner"), dtype, rngs)
            self.stack = Stack(lambda rngs: CrossBlock(config, dtype, rngs), t.layers, config.training.remat, rngs)
        else:
            if not self.trunkless:
                self.context = layers.linear(m.trunk.d_model, m.d_byte, ("width", "local_inner"), dtype, rngs)
            self.stack = local.LocalStack("decoder", config, t.layers, t.heads, t.window, dtype, rngs)
        self.logits = Logits("decoder", m, dtype, rngs)

    def __call__(self, h_BLd, z_BND, index_BL, start_BL) -> jax.Array:
        """Logits [B, L, V] from byte states, slot states and each byte's slot (N: null)."""
        if self.trunkless:
            return self.logits(self.stack(h_BLd, start_BL))
        # Broadcast as float32, so that its gradient is summed in float32.
        null_B1D = jnp.broadcast_to(self.null.get_value(), (z_BND.shape[0], 1, z_BND.shape[2])).astype(z_BND.dtype)
        c_BNd = self.context(jnp.concatenate([z_BND, null_B1D], axis=1))
        # Bytes read slots at other positions: those of the whole row.
        c_BNd = constrain(c_BNd, "decoder.context", "local_rows", None, None)
        if not self.vectors:
            return self.logits(self.stack(h_BLd + take(c_BNd, index_BL), start_BL))
        c_BNkd = c_BNd.reshape(*c_BNd.shape[:2], self.vectors, -1)

        def run(layer, x_BLd):
            x_BLd = layer.cross(x_BLd, c_BNkd, index_BL)
            return local.run(layer.block, x_BLd, start_BL, self.window, self.backend)

        return self.logits(self.stack(h_BLd, run))
