"""The trunk: a transformer over slots. Legend: B rows, N slots, D trunk width."""

import jax
from flax import nnx

from scratchpatch.kernels import staircase
from scratchpatch.model import layers, local
from scratchpatch.model.stack import Stack


class Trunk(nnx.Module):
    """Each slot reads the commits before it in its document, and itself.

    Its RoPE position is the number of those commits, so a scratchpad stands
    where its patch's commit will stand.
    """

    def __init__(self, config, rngs: nnx.Rngs):
        m, t = config.model, config.model.trunk
        dtype = local.activation_dtype(config)
        self.backend = config.kernels.staircase
        self.stack = Stack(
            lambda rngs: layers.Block(
                m, t.d_model, t.heads, t.kv_heads or t.heads, layers.TRUNK, t.layers, dtype, rngs
            ),
            t.layers,
            config.training.remat,
            rngs,
        )
        self.norm = layers.norm(t.d_model, m.norm_eps, dtype, rngs) if t.final_norm else None

    def __call__(self, x_BND, slots, commits: int) -> jax.Array:
        """Slot states [B, N, D]; the first `commits` slots are the commits."""
        first_BN, commits_BN = (layers.TRUNK.pin(x, "ranges") for x in (slots.first_BN, slots.commits_BN))
        position_BN = commits_BN - first_BN

        def attend(q, k, v):
            return staircase.attend(q, k, v, first_BN, commits_BN, commits, self.backend)

        def run(layer, x):
            return layer(x, position_BN, attend)

        x_BND = layers.TRUNK.pin(x_BND, "input", None)
        z_BND = self.stack(x_BND, run)
        return z_BND if self.norm is None else self.norm(z_BND)
