"""Parts that every tier is built of.

Legend: B rows, T positions (bytes or slots), d width, H heads, G key-value
heads, K head width, h hidden width.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from scratchpatch.model.linear import Linear
from scratchpatch.sharding import constrain


@dataclasses.dataclass(frozen=True)
class Tier:
    """Logical names of the axes of a tier's activations [rows, positions, width], and of what lies inside its blocks."""

    name: str
    rows: str
    positions: str
    inner: str
    heads: str

    def pin(self, x: jax.Array, seam: str, *rest: str | None) -> jax.Array:
        """x [B, T, ...] in its place; `rest` names the axes after the first two."""
        return constrain(x, f"{self.name}.{seam}", self.rows, self.positions, *rest)


def local(name: str) -> Tier:
    """A tier of bytes."""
    return Tier(name, "local_rows", "positions", "local_inner", "local_heads")


TRUNK = Tier("trunk", "rows", "slots", "trunk_inner", "trunk_heads")


def linear(
    d_in: int, d_out: int, names: tuple[str, str], dtype, rngs: nnx.Rngs, scale: float = 1.0, out=None
) -> Linear:
    """A bias-free projection, normal with standard deviation scale / sqrt(d_in).

    Args:
      dtype: that its inputs and its kernel are rounded to.
      out: dtype of the results, and of the sums that they are; None: as `dtype`.
    """
    init = nnx.with_metadata(
        nnx.initializers.variance_scaling(scale**2, "fan_in", "truncated_normal"),
        sharding_names=names,
        eager_sharding=False,
    )
    types = {"dtype": dtype, "param_dtype": jnp.float32, "preferred_element_type": out}
    return Linear(d_in, d_out, use_bias=False, kernel_init=init, rngs=rngs, **types)


def embedding(rows: int, d: int, deviation: float, rngs: nnx.Rngs) -> nnx.Embed:
    """A table of `rows` float32 vectors, normal and cut off at twice `deviation`: their own deviation is 0.88 of it.

    Its results are float32 too, for the caller to round. The gradient adds up
    the rows of a batch in the table's own type: thousands of bfloat16 numbers
    added to one another come to a sum that new ones no longer change.
    """
    init = nnx.with_metadata(
        nnx.initializers.truncated_normal(deviation), sharding_names=("vocabulary", "width"), eager_sharding=False
    )
    return nnx.Embed(rows, d, embedding_init=init, param_dtype=jnp.float32, dtype=jnp.float32, rngs=rngs)


def norm(d: int, eps: float, dtype, rngs: nnx.Rngs) -> nnx.RMSNorm:
    """Root mean square norm; its scale stays float32, so that its gradient is summed in float32."""
    return nnx.RMSNorm(d, epsilon=eps, dtype=dtype, param_dtype=jnp.float32, promote_dtype=_activations_alone, rngs=rngs)


def _activations_alone(arrays, dtype):
    x, scale = arrays
    return x.astype(dtype), scale


def rope(x_BTHK: jax.Array, position_BT: jax.Array, theta: float) -> jax.Array:
    """Rotary position embedding, halves turned against each other (arXiv 2104.09864)."""
    half = x_BTHK.shape[-1] // 2
    frequency_k = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    angle = position_BT[..., None, None].astype(jnp.float32) * frequency_k
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    a, b = jnp.split(x_BTHK.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], axis=-1).astype(x_BTHK.dtype)


def ffn_width(d: int, multiplier: float) -> int:
    """Hidden width of a SwiGLU block."""
    return 16 * math.ceil(round(d * multiplier / 16, 6))


class Attention(nnx.Module):
    """Projections and RoPE around an attention that the caller names."""

    def __init__(self, d: int, heads: int, kv_heads: int, tier: Tier, theta: float, out_scale: float, dtype, rngs):
        width, inner = d // heads, tier.inner
        self.heads, self.kv_heads, self.theta, self.tier = heads, kv_heads, theta, tier
        self.q = linear(d, heads * width, ("width", inner), dtype, rngs)
        self.k = linear(d, kv_heads * width, ("width", inner), dtype, rngs)
        self.v = linear(d, kv_heads * width, ("width", inner), dtype, rngs)
        self.o = linear(heads * width, d, (inner, "width"), dtype, rngs, out_scale)

    def __call__(self, x_BTd, position_BT, attend: Callable) -> jax.Array:
        def split(y, heads):
            return self.tier.pin(y.reshape(*y.shape[:2], heads, -1), "heads", self.tier.heads, None)

        q_BTHK = rope(split(self.q(x_BTd), self.heads), position_BT, self.theta)
        k_BTGK = rope(split(self.k(x_BTd), self.kv_heads), position_BT, self.theta)
        v_BTGK = split(self.v(x_BTd), self.kv_heads)
        out_BTHK = attend(q_BTHK, k_BTGK, v_BTGK)
        return self.o(out_BTHK.reshape(*out_BTHK.shape[:2], -1))


class SwiGLU(nnx.Module):
    """Gated feed-forward block (arXiv 2002.05202)."""

    def __init__(self, d: int, hidden: int, tier: Tier, out_scale: float, dtype, rngs):
        self.tier, inner = tier, tier.inner
        self.gate = linear(d, hidden, ("width", inner), dtype, rngs)
        self.up = linear(d, hidden, ("width", inner), dtype, rngs)
        self.down = linear(hidden, d, (inner, "width"), dtype, rngs, out_scale)

    def __call__(self, x_BTd) -> jax.Array:
        hidden_BTh = jax.nn.silu(self.gate(x_BTd)) * self.up(x_BTd)
        return self.down(self.tier.pin(hidden_BTh, "hidden", self.tier.inner))


class Block(nnx.Module):
    """Pre-norm transformer block; local tiers and trunk differ only in `attend`.

    Args:
      model: the config's section, for what all tiers share.
      layers: of the stack that it is one of: result projections shrink with it.
    """

    def __init__(self, model, d: int, heads: int, kv_heads: int, tier: Tier, layers: int, dtype, rngs: nnx.Rngs):
        self.tier = tier
        out_scale = (2 * layers) ** -0.5
        self.attention_norm = norm(d, model.norm_eps, dtype, rngs)
        self.attention = Attention(d, heads, kv_heads, tier, model.rope_theta, out_scale, dtype, rngs)
        self.ffn_norm = norm(d, model.norm_eps, dtype, rngs)
        self.ffn = SwiGLU(d, ffn_width(d, model.ffn_multiplier), tier, out_scale, dtype, rngs)

    def __call__(self, x_BTd, position_BT, attend: Callable) -> jax.Array:
        x_BTd = self.tier.pin(x_BTd + self.attention(self.attention_norm(x_BTd), position_BT, attend), "middle", None)
        return self.tier.pin(x_BTd + self.ffn(self.ffn_norm(x_BTd)), "layer", None)
