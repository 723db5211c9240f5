"""State-space layers: as a transformer's, but what lies before a position is read by a recurrence.

Legend: B rows, T positions (bytes or slots), d width, e = d channels, S states of a channel.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from scratchpatch.kernels.diagonal import System
from scratchpatch.model import layers
from scratchpatch.sharding import Axes

# Steps at which channels start, evenly spread over their logarithms. S4D and Mamba have 0.001 to 0.1; there is no
# convolution here that would know the last bytes, so some channels must forget as fast. After 100 steps variant E of
# experiments/residual_patching is at 2.93 bits per byte so, and at 3.16 with theirs.
_STEPS = (1e-3, 1.0)
# Of a projection that makes steps: at first they depend little on the input.
_STEP_SCALE = 0.1


class Mixer(nnx.Module):
    """Projections and a gate around a diagonal recurrence that the caller names.

    States start as S4D's (arXiv 2206.11893, section 4): S4D-Lin, -1/2 + i pi n, where numbers are complex, S4D-Real,
    -(n + 1), where they are real. Ours: the constants b of S4D are in c, since a channel has one input; the gate is
    Mamba's (arXiv 2312.00752, section 3.4), without its convolution and its wider channels.

    name: of the tier, for the names of its activations in messages. out_scale: of the result projection's initial
    numbers.
    """

    def __init__(self, settings, d: int, name: str, axes: Axes, out_scale: float, dtype, rngs: nnx.Rngs):
        states, inner = settings.state, axes.inner
        self.name, self.axes = name, axes
        self.u = layers.linear(d, d, ("width", inner), dtype, rngs)
        self.gate = layers.linear(d, d, ("width", inner), dtype, rngs)
        self.o = layers.linear(d, d, (inner, "width"), dtype, rngs, out_scale)
        scaled = {"scale": _STEP_SCALE, "out": jnp.float32}
        self.step = layers.linear(d, d, ("width", inner), dtype, rngs, **scaled) if settings.selective else None
        low, high = map(math.log, _STEPS)
        start_e = jnp.exp(jax.random.uniform(rngs.params(), (d,), jnp.float32, low, high))
        # softplus(x) = step.
        self.step_bias = _parameter(start_e + jnp.log(-jnp.expm1(-start_e)), (inner,))
        n_S1 = jnp.arange(states, dtype=jnp.float32)[:, None] + jnp.zeros((1, d), jnp.float32)
        rate_Se = jnp.full_like(n_S1, 0.5) if settings.complex else n_S1 + 1
        self.decay = _parameter(jnp.log(rate_Se), (None, inner))
        self.frequency = _parameter(math.pi * n_S1, (None, inner)) if settings.complex else None
        read = jax.random.normal(rngs.params(), (1 + settings.complex, states, d), jnp.float32)
        self.read = _parameter(read * (states * (1 + settings.complex)) ** -0.5, (None, None, inner))
        self.skip = _parameter(jnp.ones((d,), jnp.float32), (inner,))

    def __call__(self, x_BTd, mix: Callable) -> jax.Array:
        """[B, T, d]; mix: (system, u [B, T, e], steps) -> y [B, T, e] in float32."""
        seam, inner = f"{self.name}.channels", self.axes.inner
        projected = (layers.pin(x, seam, self.axes, inner) for x in layers.shared(x_BTd, self.u, self.gate))
        u_BTe, gate_BTe = checkpoint_name(tuple(projected), "heads")
        bias_e = self.step_bias.get_value()
        step = jax.nn.softplus(bias_e if self.step is None else bias_e + self.step(x_BTd))
        frequency = None if self.frequency is None else self.frequency.get_value()
        system = System(self.decay.get_value(), frequency, tuple(self.read.get_value()))
        y_BTe = mix(system, u_BTe, step) + self.skip.get_value() * u_BTe
        y_BTe = checkpoint_name(y_BTe.astype(u_BTe.dtype), "attended")
        return self.o(y_BTe * jax.nn.silu(gate_BTe))


class Block(layers.Layer):
    """Pre-norm state-space block; byte tiers and trunk differ only in `mix`.

    Arguments as of `layers.Block`, which has attention in the mixer's place.
    """

    def __init__(self, model, d: int, name: str, axes: Axes, depth: int, dtype, rngs: nnx.Rngs):
        self.mixer_norm = layers.norm(d, model.norm_eps, dtype, rngs)
        self.mixer = Mixer(model.ssm, d, name, axes, (2 * depth) ** -0.5, dtype, rngs)
        super().__init__(model, d, name, axes, depth, dtype, rngs)

    def __call__(self, x_BTd, position_BT, mix: Callable) -> jax.Array:
        """position_BT is what attention turns by; a recurrence has no use for it."""
        return self.fed_forward(x_BTd + self.mixer(self.mixer_norm(x_BTd), mix))


def _parameter(value: jax.Array, names: tuple[str | None, ...]) -> nnx.Param:
    return nnx.Param(value, sharding_names=names, eager_sharding=False)
