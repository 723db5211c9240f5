"""Every backend on the CPU: kernels of TPU and GPU interpreted."""

import contextlib

import jax
import jax.numpy as jnp

from scratchpatch.kernels import choice

PLATFORMS = {"xla": "cpu", "splash": "tpu", "pallas": "gpu", "blocked": "cpu"}


def using(backend: str) -> contextlib.AbstractContextManager:
    """Trace inside for the platform of `backend`."""
    return choice.platform(PLATFORMS[backend], interpret=True)


def value_and_gradients(attend, backend: str, q, k, v, weight):
    """(attend(q, k, v), its weighted sum's gradients), compiled for `backend`."""

    def value(q, k, v, weight):
        out = attend(q, k, v)
        return (out * weight).sum(), out

    with using(backend):
        both = jax.jit(jax.value_and_grad(value, argnums=(0, 1, 2), has_aux=True))
        (_, out), gradients = both(q, k, v, weight)
    return out, *gradients


def norm(x) -> float:
    """The float32 norm of an array of any float type."""
    return float(jnp.linalg.norm(x.astype(jnp.float32)))
