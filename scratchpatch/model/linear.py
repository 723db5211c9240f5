"""Matrices of a model that many devices train together.

Legend: x [..., i] of any number of axes, kernel [i, o].
"""

import functools

import jax
from flax import nnx

from scratchpatch import precision, sharding


class Linear(nnx.Linear):
    """A projection without bias that gathers its matrix once per pass and says in which type its gradient is summed.

    Left to itself, XLA gathers a matrix that is spread over fsdp once for each of its uses, may reduce its gradient
    where scattering sends half as much, and adds up the devices' shares of the gradient in the type of the
    activations. Here the matrix is gathered in the activations' type, and the product that is its gradient comes out
    in the type of `sharding.summing`: what the devices then add up, and what the parts of an accumulated step are added in.
    """

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., o] in `preferred_element_type`, or else in `dtype`."""
        places = sharding.places_of(self.kernel)
        how = (places, self.dtype, sharding.gradient_dtype(), self.precision, self.preferred_element_type)
        return _product(x.astype(self.dtype), self.kernel.get_value(), how)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _product(x, kernel, how):
    return _forward(x, kernel, how)[0]


def _forward(x, kernel, how):
    places, dtype, *_ = how
    whole = kernel.astype(dtype)
    if places is not None:
        whole = jax.lax.with_sharding_constraint(whole, places.used)
    return _multiply(x, whole, how), (x, whole)


def _multiply(x, whole, how):
    *_, precision, preferred = how
    numbers = (((x.ndim - 1,), (0,)), ((), ()))
    return jax.lax.dot_general(x, whole, numbers, precision=precision, preferred_element_type=preferred)


def _backward(how, kept, gradient):
    x, whole = kept
    places, _, summed_in, precision, _ = how
    # A dot product is linear in x, so its transpose needs no x.
    (of_x,) = jax.linear_transpose(lambda x: _multiply(x, whole, how), x)(gradient)
    rows = tuple(range(x.ndim - 1))
    of_kernel = jax.lax.dot_general(
        x, gradient, ((rows, rows), ((), ())), precision=precision, preferred_element_type=summed_in
    )
    if places is not None:
        of_kernel = jax.lax.with_sharding_constraint(of_kernel, places.kept)
    # Parameters are float32, and so are their gradients once they are summed.
    return of_x, of_kernel.astype(jax.numpy.float32)


_product.defvjp(precision.of_arguments(_forward), precision.of_arguments(_backward))
