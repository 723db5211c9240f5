"""Equal layers, stacked in one array per parameter and scanned. Legend: B rows, L byte positions, d byte width."""

import contextlib
from collections.abc import Callable

import jax
from flax import nnx

from scratchpatch import sharding
from scratchpatch.kernels import attention, diagonal
from scratchpatch.model import layers, ssm
from scratchpatch.patching.rows import Rows

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


# On a CPU a loop copies all that its layers keep for the backward pass, and what fills a step of a small model is such
# copies. So few layers are traced one by one there; not those that are recomputed, since XLA would share the work.
_UNROLLED_ON_CPU = 8

_P = jax.checkpoint_policies
# Names in a layer: what its attention reads and gives, and the state after it.
_ATTENTION = ["heads", "attended", "middle"]
# By the values of training.remat but none: what the forward pass keeps for the backward pass.
REMAT_POLICIES = {
    "dots": _P.save_from_both_policies(_P.dots_with_no_batch_dims_saveable, _P.save_only_these_names(*_ATTENTION)),
    "ffn": _P.save_only_these_names(*_ATTENTION),
    "offload": _P.save_and_offload_only_these_names(
        names_which_can_be_saved=[],
        names_which_can_be_offloaded=_ATTENTION,
        offload_src="device",
        offload_dst="pinned_host",
    ),
    "full": _P.nothing_saveable,
}


class Stack(nnx.Module):
    """`layers` copies of what `make(rngs)` builds; with 0 layers the identity.

    remat: what the backward pass recomputes: config field training.remat.
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
        few = self.remat == "none" and self.layers <= _UNROLLED_ON_CPU and attention.traced_platform() == "cpu"
        return jax.lax.scan(body, x, parameters, unroll=self.layers if _UNROLL or few else 1)[0]

    def separate(self) -> tuple[nnx.Module, ...]:
        """The layers one by one, each with a copy of its part of the parameters."""
        if not self.layers:
            return ()
        definition, parameters = nnx.split(self.block)
        return tuple(nnx.merge(definition, jax.tree.map(lambda x, i=i: x[i], parameters)) for i in range(self.layers))


def window_block(name: str, config, heads: int, depth: int, dtype, rngs: nnx.Rngs) -> layers.Layer:
    """One of the `depth` layers of a byte tier; those of entropies (head and model) have attention."""
    m = config.model
    if name in ("encoder", "decoder") and m[name].kind == "ssm":
        return ssm.Block(m, m.d_byte, name, sharding.BYTE_TIER, depth, dtype, rngs)
    return layers.Block(m, m.d_byte, heads, heads, name, sharding.BYTE_TIER, depth, dtype, rngs)


def run_window(layer: layers.Layer, x_BLd: jax.Array, rows: Rows, window: int, backend: str) -> jax.Array:
    """One layer of a byte tier: positions count from the document's start. backend: config field kernels.window."""

    def attend(q, k, v):
        return attention.window(q, k, v, rows.start_BL, window, backend)

    def mix(system, u_BLe, step):
        return diagonal.mix(system, u_BLe, step, rows.offset_BL == 0, sharding.BYTE_TIER)

    return layer(x_BLd, rows.offset_BL, mix if isinstance(layer, ssm.Block) else attend)


class ByteTier(nnx.Module):
    """`depth` causal layers, of sliding windows or of states, masked by document; 0 is the identity."""

    def __init__(self, name: str, config, depth: int, heads: int, window: int, dtype, rngs: nnx.Rngs):
        self.window, self.backend, remat = window, config.kernels.window, config.training.remat
        self.stack = Stack(lambda rngs: window_block(name, config, heads, depth, dtype, rngs), depth, remat, rngs)

    def __call__(self, x_BLd, rows: Rows) -> jax.Array:
        return self.stack(x_BLd, lambda layer, x: run_window(layer, x, rows, self.window, self.backend))
