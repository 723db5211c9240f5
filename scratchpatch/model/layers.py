"""Parts that every tier is built of.

Legend: B rows, T positions (bytes or slots), d width, H heads, G key-value heads, K head width, h hidden width. Of a
projection: x [..., i] of any number of axes, kernel [i, o].
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from scratchpatch import precision, sharding
from scratchpatch.kernels import attention
from scratchpatch.sharding import Axes


class Linear(nnx.Linear):
    """A projection without bias that gathers its matrix once per pass and says in which type its gradient is summed.

    Left to itself, XLA gathers a matrix that is spread over fsdp once for each of its uses, may reduce its gradient
    where scattering sends half as much, and adds up the devices' shares of the gradient in the type of the activations.
    Here the matrix is gathered in the activations' type, and the product that is its gradient comes out in the type of
    `sharding.summing`: in this type the devices then add it up, and so do the parts of an accumulated step.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., o] in `preferred_element_type`, or else in `dtype`."""
        return self.multiplied(x, self.kernel.get_value())

    def multiplied(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """The same by another kernel, whose place on the mesh is this one's."""
        placement = sharding.placement(self.kernel)
        # What multiplies float32 in a bfloat16 model has a float32 gradient, whatever the others have.
        summed_in = jnp.promote_types(self.dtype, sharding.gradient_dtype())
        how = (placement, self.dtype, summed_in, self.precision, self.preferred_element_type)
        return _product(x.astype(self.dtype), kernel, how)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x, kernel, how):
    return _forward(x, kernel, how)[0]


def _forward(x, kernel, how):
    placement, dtype, *_ = how
    whole = kernel.astype(dtype)
    if placement is not None:
        whole = jax.lax.with_sharding_constraint(whole, placement.used)
    return _multiply(x, whole, how), (x, whole)


def _multiply(x, whole, how):
    *_, precision, preferred = how
    numbers = (((x.ndim - 1,), (0,)), ((), ()))
    return jax.lax.dot_general(x, whole, numbers, precision=precision, preferred_element_type=preferred)


def _backward(how, residuals, gradient):
    x, whole = residuals
    placement, _, summed_in, precision, _ = how
    # A dot product is linear in x, so its transpose needs no x.
    (of_x,) = jax.linear_transpose(lambda x: _multiply(x, whole, how), x)(gradient)
    rows = tuple(range(x.ndim - 1))
    # A CPU turns the first factor around, in a pass of its own: let it be the narrower one. It has no product of
    # bfloat16 arrays that comes out turned.
    turned = x.dtype == jnp.float32 and x.shape[-1] > gradient.shape[-1]
    factors = (gradient, x) if turned else (x, gradient)
    of_kernel = jax.lax.dot_general(
        *factors, ((rows, rows), ((), ())), precision=precision, preferred_element_type=summed_in
    )
    of_kernel = of_kernel.T if turned else of_kernel
    if placement is not None:
        of_kernel = jax.lax.with_sharding_constraint(of_kernel, placement.stored)
    # Parameters are float32, and so are their gradients once they are summed.
    return of_x, of_kernel.astype(jnp.float32)


_product.defvjp(precision.of_arguments(_forward), precision.of_arguments(_backward))


# So many rows at least: fewer cost less than joining the matrices does.
_JOINED_ROWS = 256


def shared(x: jax.Array, *projections: Linear) -> list[jax.Array]:
    """The results of projections that read the same input and have the same types, [..., o] each.

    On one CPU they are one product: XLA shares out a small product over a processor's cores at a loss, and the gradient
    of a matrix most of all.
    """
    few = x.size < _JOINED_ROWS * x.shape[-1]
    if few or sharding.spread_mesh() is not None or attention.traced_platform() != "cpu":
        return [projection(x) for projection in projections]
    kernel = jnp.concatenate([projection.kernel.get_value() for projection in projections], axis=1)
    ends = np.cumsum([projection.out_features for projection in projections])
    return jnp.split(projections[0].multiplied(x, kernel), ends[:-1], axis=-1)


def linear(
    d_in: int, d_out: int, names: tuple[str, str], dtype, rngs: nnx.Rngs, scale=1.0, out=None, init=None
) -> Linear:
    """A bias-free projection, normal with standard deviation scale / sqrt(d_in).

    Args:
      dtype: that its inputs and its kernel are rounded to; products of float32 are float32 ones in any model.
      out: dtype of the results, and of the sums that they are; None: as `dtype`.
      init: (key, shape, dtype) -> the first kernel; None: the normal one.
    """
    init = nnx.with_metadata(
        init or nnx.initializers.variance_scaling(scale**2, "fan_in", "truncated_normal"),
        sharding_names=names,
        eager_sharding=False,
    )
    types = {"dtype": dtype, "param_dtype": jnp.float32, "preferred_element_type": out}
    if dtype == jnp.float32:
        types["precision"] = jax.lax.Precision.HIGHEST
    return Linear(d_in, d_out, use_bias=False, kernel_init=init, rngs=rngs, **types)


def round_kernels(module: nnx.Module) -> None:
    """Round the kernel of every `Linear` in a module to the type that each use of it rounds it to.

    The module then gives the same numbers, and a program without gradients reads a kernel of a bfloat16 model in half
    the bytes.
    """
    for _, inner in nnx.iter_modules(module):
        if isinstance(inner, Linear):
            inner.kernel.set_value(inner.kernel.get_value().astype(inner.dtype))


def embedding(rows: int, d: int, deviation: float, rngs: nnx.Rngs) -> nnx.Embed:
    """A table of `rows` float32 vectors, normal and cut off at twice `deviation`: their own deviation is 0.88 of it.

    Its results are float32 too, for the caller to round. The gradient adds up the rows of a batch in the table's own
    type: thousands of bfloat16 numbers added to one another come to a sum that new ones no longer change.
    """
    init = nnx.with_metadata(
        nnx.initializers.truncated_normal(deviation), sharding_names=("vocabulary", "width"), eager_sharding=False
    )
    return nnx.Embed(rows, d, embedding_init=init, param_dtype=jnp.float32, dtype=jnp.float32, rngs=rngs)


class Norm(nnx.RMSNorm):
    """Root mean square norm (arXiv 1910.07467); its scale stays float32, so that its gradient is summed in float32.

    The gradient is written by hand: what is kept for it is x and one number per position, and no array as large as x
    is made that holds the scale, or that number, alone.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., d] in `dtype`."""
        return _normalised(x.astype(self.dtype), self.scale.get_value(), self.epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _normalised(x, scale, eps):
    return _norm_forward(x, scale, eps)[0]


def _norm_forward(x, scale, eps):
    wide = x.astype(jnp.float32)
    inverse = jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return (wide * inverse * scale).astype(x.dtype), (x, scale, inverse)


def _norm_backward(eps, residuals, gradient):
    x, scale, inverse = residuals
    unit, gradient = x.astype(jnp.float32) * inverse, gradient.astype(jnp.float32)
    of_scale = (gradient * unit).sum(axis=range(x.ndim - 1))
    gradient = gradient * scale
    of_x = inverse * (gradient - unit * jnp.mean(gradient * unit, axis=-1, keepdims=True))
    return of_x.astype(x.dtype), of_scale


_normalised.defvjp(_norm_forward, _norm_backward)


def norm(d: int, eps: float, dtype, rngs: nnx.Rngs) -> Norm:
    """A norm whose scale is 1."""
    return Norm(d, epsilon=eps, rngs=rngs, dtype=dtype, param_dtype=jnp.float32)


def activation_dtype(config) -> jnp.dtype:
    """The dtype that activations are rounded to."""
    return jnp.dtype(config.training.dtype)


def pin(x: jax.Array, seam: str, axes: Axes, *rest: str | None) -> jax.Array:
    """x [B, T, ...] in its place on the mesh; `rest` names the axes after these two, `seam` the place in messages."""
    return sharding.constrain(x, seam, axes.rows, axes.positions, *rest)


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
    """Projections and RoPE around an attention that the caller names.

    name: of the tier, for the names of its activations in messages. out_scale: of the result projection's initial
    numbers.
    """

    def __init__(self, d: int, heads: int, kv_heads: int, name: str, axes: Axes, theta, out_scale: float, dtype, rngs):
        width, inner = d // heads, axes.inner
        self.heads, self.kv_heads, self.theta, self.name, self.axes = heads, kv_heads, theta, name, axes
        self.q = linear(d, heads * width, ("width", inner), dtype, rngs)
        self.k = linear(d, kv_heads * width, ("width", inner), dtype, rngs)
        self.v = linear(d, kv_heads * width, ("width", inner), dtype, rngs)
        self.o = linear(heads * width, d, (inner, "width"), dtype, rngs, out_scale)

    def __call__(self, x_BTd, position_BT, attend: Callable) -> jax.Array:
        def split(y, heads):
            if y.shape[1] == 1:
                # A TPU's compiler would spare the vectors of one position a turn, and turn the matrix at every pass.
                y = jax.lax.optimization_barrier(y)
            y = y.reshape(*y.shape[:2], heads, -1)
            return pin(y, f"{self.name}.heads", self.axes, self.axes.heads, None)

        q, k, v = shared(x_BTd, self.q, self.k, self.v)
        q_BTHK = rope(split(q, self.heads), position_BT, self.theta)
        k_BTGK = rope(split(k, self.kv_heads), position_BT, self.theta)
        v_BTGK = split(v, self.kv_heads)
        out_BTHK = attend(*checkpoint_name((q_BTHK, k_BTGK, v_BTGK), "heads"))
        return self.o(out_BTHK.reshape(*out_BTHK.shape[:2], -1))


@jax.custom_vjp
def _gated(gate, up):
    """silu(gate) * up; for the gradient both arguments are kept, and nothing that is made of them."""
    return _gated_forward(gate, up)[0]


def _gated_forward(gate, up):
    return jax.nn.silu(gate) * up, (gate, up)


def _gated_backward(residuals, gradient):
    gate, up = residuals
    share = jax.nn.sigmoid(gate)
    return gradient * up * (share * (1 + gate * (1 - share))), gradient * (gate * share)


_gated.defvjp(_gated_forward, _gated_backward)


class SwiGLU(nnx.Module):
    """Gated feed-forward block (arXiv 2002.05202)."""

    def __init__(self, d: int, hidden: int, name: str, axes: Axes, out_scale: float, dtype, rngs):
        self.name, self.axes = name, axes
        self.gate = linear(d, hidden, ("width", axes.inner), dtype, rngs)
        self.up = linear(d, hidden, ("width", axes.inner), dtype, rngs)
        self.down = linear(hidden, d, (axes.inner, "width"), dtype, rngs, out_scale)

    def __call__(self, x_BTd) -> jax.Array:
        hidden_BTh = _gated(*shared(x_BTd, self.gate, self.up))
        return self.down(pin(hidden_BTh, f"{self.name}.hidden", self.axes, self.axes.inner))


class Layer(nnx.Module):
    """What every pre-norm layer has behind its mixer: a feed-forward block.

    depth: layers of the stack that it is one of: result projections shrink with it. name: see `Attention`.
    """

    def __init__(self, model, d: int, name: str, axes: Axes, depth: int, dtype, rngs):
        self.name, self.axes = name, axes
        self.ffn_norm = norm(d, model.norm_eps, dtype, rngs)
        self.ffn = SwiGLU(d, ffn_width(d, model.ffn_multiplier), name, axes, (2 * depth) ** -0.5, dtype, rngs)

    def fed_forward(self, x_BTd) -> jax.Array:
        """What the layer makes of its input and its mixer's result, added up."""
        x_BTd = checkpoint_name(pin(x_BTd, f"{self.name}.middle", self.axes, None), "middle")
        return pin(x_BTd + self.ffn(self.ffn_norm(x_BTd)), f"{self.name}.layer", self.axes, None)


class Block(Layer):
    """Pre-norm transformer block; byte tiers and trunk differ only in `attend`.

    layers: of the stack that the block is one of: result projections shrink with it. name: see `Attention`.
    """

    def __init__(self, model, d: int, heads: int, kv_heads: int, name: str, axes: Axes, layers: int, dtype, rngs):
        out_scale = (2 * layers) ** -0.5
        self.attention_norm = norm(d, model.norm_eps, dtype, rngs)
        self.attention = Attention(d, heads, kv_heads, name, axes, model.rope_theta, out_scale, dtype, rngs)
        super().__init__(model, d, name, axes, layers, dtype, rngs)

    def __call__(self, x_BTd, position_BT, attend: Callable) -> jax.Array:
        return self.fed_forward(x_BTd + self.attention(self.attention_norm(x_BTd), position_BT, attend))
