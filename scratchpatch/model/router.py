"""The learned patchifier of H-Net (arXiv 2507.07955, its routing module): a probability that a patch ends at each byte.

The gradient of the loss reaches the router in three ways: through the weights by which `smoothing` mixes contexts,
through the confidence that bytes read their contexts with (`confident`), and through the ratio loss (`loss.ratio`).
What is decided, a mask, has no gradient.

Legend: B rows, L byte positions, d byte width.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from scratchpatch import sharding
from scratchpatch.model import layers
from scratchpatch.patching.rows import Rows

# Added to the squared norms, so that the cosine of a vector of zeros, and its gradient, are finite.
EPS = 1e-8


class Router(nnx.Module):
    """p_n = (1 - cos(Wq h_n, Wk h_{n-1})) / 2 of the encoder's states h: a patch ends where the text turns.

    Wq and Wk begin as identities and have no bias. All of it is float32, also in a bfloat16 model. As everywhere here,
    a patch ends with the byte at which the boundary stands; the paper says that the next one begins there.
    """

    def __init__(self, config, rngs: nnx.Rngs):
        d = config.model.d_byte

        def identity(key, shape, dtype):
            return jnp.eye(*shape, dtype=dtype)

        self.q, self.k = (
            layers.linear(d, d, ("width", "local_inner"), jnp.float32, rngs, init=identity) for _ in range(2)
        )

    def __call__(self, h_BLd: jax.Array, rows: Rows) -> jax.Array:
        """float32 [B, L]: the probability of a boundary at each byte; 1 at the first one of each document."""
        q_BLd, k_BLd = self.project(h_BLd)
        before_BLd = jnp.pad(k_BLd[:, :-1], ((0, 0), (1, 0), (0, 0)))
        p_BL = probability(q_BLd, before_BLd, rows.offset_BL == 0)
        return sharding.constrain(p_BL, "router.probability", "local_rows", "positions")

    def project(self, h_BLd: jax.Array) -> list[jax.Array]:
        """Wq h and Wk h, float32 [B, L, d] each."""
        return layers.shared(h_BLd.astype(jnp.float32), self.q, self.k)


def probability(q_BLd: jax.Array, before_BLd: jax.Array, opens_BL: jax.Array) -> jax.Array:
    """float32 [B, L]: the probability of a boundary, from Wq h of each byte and Wk h of the byte before it.

    opens_BL: bool, the first byte of each document, at which it is 1.
    """
    cosine_BL = (q_BLd * before_BLd).sum(-1) * _inverse_norm(q_BLd) * _inverse_norm(before_BLd)
    return jnp.where(opens_BL, 1.0, jnp.clip((1 - cosine_BL) / 2, 0.0, 1.0))


def _inverse_norm(x_BLd: jax.Array) -> jax.Array:
    return jax.lax.rsqrt((x_BLd * x_BLd).sum(-1) + EPS)


def confidence(p_BL: jax.Array, commit_BL: jax.Array) -> jax.Array:
    """float32 [B, L]: the probability of what was decided: p where a commit stands, else 1 - p.

    A boundary that the budget refused is no commit: its bytes read the context before it, with confidence 1 - p.
    """
    return jnp.where(commit_BL, p_BL, 1 - p_BL)


@jax.custom_vjp
def confident(x: jax.Array, confidence_BL: jax.Array) -> jax.Array:
    """x [B, L, ...] as it is, with the gradient of x times the confidence at confidence 1 (straight-through).

    The paper multiplies by a number that is 1, whose gradient is the confidence's.
    """
    return x


def _confident_forward(x, confidence_BL):
    return x, x


def _confident_backward(x, gradient):
    product = x.astype(jnp.float32) * gradient.astype(jnp.float32)
    return gradient, product.sum(axis=range(2, x.ndim))


confident.defvjp(_confident_forward, _confident_backward)
