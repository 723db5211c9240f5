"""The precision of matrix products, in one place: what `training.dtype` says, on every platform."""

import contextlib
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp


def products(dtype) -> contextlib.AbstractContextManager:
    """Trace inside with matrix products of arrays of `dtype` as exact as that type.

    Left to their defaults, TPUs multiply float32 arrays in one pass of bfloat16, and GPUs may take TensorFloat-32.
    Inside, products of a float32 model are float32 ones (`highest`); those of a bfloat16 model are one pass on bfloat16
    numbers, added up in float32. Either holds whatever jax_default_matmul_precision says.

    JAX carries the precision of a product over to its gradients, but for those of a jax.custom_vjp: see `of_arguments`.
    """
    return jax.default_matmul_precision("highest" if jnp.dtype(dtype) == jnp.float32 else "default")


def of_config(method: Callable) -> Callable:
    """`method` with the `products` of `training.dtype` in its object's config."""

    @functools.wraps(method)
    def run(self, *args, **named):
        with products(self.config.training.dtype):
            return method(self, *args, **named)

    return run


def of_arguments(function: Callable) -> Callable:
    """`function` with the `products` of the first array of floats among its arguments.

    For the functions of a jax.custom_vjp, which JAX traces when the gradient
    is taken: outside of the context that the attention was called in.
    """

    @functools.wraps(function)
    def run(*args):
        arrays = (x for x in jax.tree.leaves(args) if isinstance(x, jax.Array))
        with products(next(x.dtype for x in arrays if jnp.issubdtype(x.dtype, jnp.floating))):
            return function(*args)

    return run


def times_of_bfloat16(dtype, device_kind: str) -> int:
    """How many times as long as one of bfloat16 a product of arrays of `dtype` takes, by makers' data sheets.

    A TPU computes one of float32 in six passes of bfloat16; a GPU leaves its
    tensor cores (15 times on an H100, 16 on an A100).
    """
    if jnp.dtype(dtype) != jnp.float32:
        return 1
    return 6 if device_kind.startswith("TPU") else 16
