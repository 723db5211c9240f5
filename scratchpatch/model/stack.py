"""Equal layers, stacked in one array per parameter and scanned."""

import contextlib
from collections.abc import Callable

import jax
from flax import nnx

_UNROLL = False


@contextlib.contextmanager
def unrolled():
    """Trace layers one by one: XLA's cost analysis counts a scanned body once."""
    global _UNROLL
    _UNROLL = True
    try:
        yield
    finally:
        _UNROLL = False


REMAT_POLICIES = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Stack(nnx.Module):
    """`layers` copies of what `make(rngs)` builds; with 0 layers the identity.

    Args:
      make: rngs -> module.
      layers: how many.
      remat: what the backward pass recomputes: none, dots, full.
    """

    def __init__(self, make: Callable[[nnx.Rngs], nnx.Module], layers: int, remat: str, rngs: nnx.Rngs):
        self.layers, self.remat = layers, remat
        if layers:
            stacked = nnx.vmap(make, in_axes=0, out_axes=0, transform_metadata={nnx.PARTITION_NAME: "layers"})
            self.block = nnx.split_rngs(splits=layers)(stacked)(rngs)

    def __call__(self, x, apply: Callable):
        """Thread x through the layers: x = apply(layer, x)."""
        if not self.layers:
            return x
        definition, parameters = nnx.split(self.block)

        def body(x, layer_parameters):
            return apply(nnx.merge(definition, layer_parameters), x), None

        if self.remat != "none":
            # XLA inlines a scan of one layer, and would then share what is to be recomputed.
            body = jax.checkpoint(body, policy=REMAT_POLICIES[self.remat], prevent_cse=self.layers == 1 or _UNROLL)
        return jax.lax.scan(body, x, parameters, unroll=self.layers if _UNROLL else 1)[0]
