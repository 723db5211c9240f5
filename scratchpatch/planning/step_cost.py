"""What one train step costs a chip: FLOPs, memory traffic and memory, by arithmetic alone.

Estimates for a plan, not measurements: matrix products are counted as the
program runs them, padding, masked keys and recomputation included; the rest is
the memory traffic of what XLA does not fuse into them.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import jax.numpy as jnp

from scratchpatch import config as config_lib
from scratchpatch.accounting import account, flops
from scratchpatch.model import loss as loss_lib
from scratchpatch.model import weights as weights_lib
from scratchpatch.model.layers import ffn_width

# What a long series of large operations reaches of the data sheet (bf16 GEMM on an H200: 790 of 989 TFLOP/s; copies 4.3
# of 4.8 TB/s); networks are taken to reach as much.
ATTAINABLE = 0.8
# Reads and writes of states that stay, after fusion, in one block at one position.
_WIDTHS, _HIDDENS = 12, 4
_ADAMW = 24  # bytes read and written per parameter: parameter and both moments, float32
_PASSES = {"none": 3, "dots": 3.5, "full": 4}  # forward, backward twice as much, recomputation


@dataclasses.dataclass(frozen=True)
class StepCost:
    """Of one chip and one step.

    flops: run; useful: without padding, masked keys and recomputation.
    traffic: bytes moved to and from memory by what is no matrix product.
    parameters, optimizer, activations: bytes held; activations are what the
    forward pass keeps for the backward pass. workspace: an estimate of
    gradients and temporaries. padding: share of the trunk's slots that no
    decision fills.
    """

    flops: float
    useful: float
    traffic: float
    parameters: int
    optimizer: int
    activations: int
    workspace: int
    padding: float


def step_cost(config, mesh: dict[str, int], parts: int, fused: bool) -> StepCost:
    """The cost of a step.

    Args:
      mesh: axis to size.
      parts: that its rows are computed in.
      fused: attention by a kernel that writes no logits (see `kernels.choice`).
    """
    chips = math.prod(mesh.values())
    length, rows = config.data.window, config.training.batch_rows
    per_chip = rows * length / chips
    commits, scratchpads = account.rates(config)
    passes = _PASSES[config.training.remat]
    run = sum(flops.compiled(config, length).values()) * passes
    useful = flops.training_flops_per_byte(config, commits, scratchpads, length)
    allocated = sum(config_lib.slots(config)) / length
    held = _bytes(config)
    shards = mesh["fsdp"]
    activations = _activations(config, mesh, parts)
    states = per_chip * _states(config, fused) * passes
    gathered = held / 2 * (2 + (config.training.remat != "none")) * parts
    return StepCost(
        flops=run * per_chip,
        useful=useful * per_chip,
        traffic=states + gathered + held / 4 * _ADAMW / shards,
        parameters=held // shards,
        optimizer=2 * held // shards,
        activations=activations,
        workspace=int(held / shards + per_chip / parts * _workspace(config, fused)),
        padding=1 - (commits + scratchpads) / allocated if allocated else 0.0,
    )


def _bytes(config) -> int:
    """Of all parameters in float32."""
    return 4 * sum(x.size for x in jax.tree.leaves(weights_lib.abstract(config)[1]["params"]))


def _tiers(config) -> list[tuple[int, int, int, float, float]]:
    """(layers, width, heads, positions per byte, keys per position that are multiplied with) of each stack."""
    m, length = config.model, config.data.window
    slots = sum(config_lib.slots(config)) / length
    found = [
        (m.encoder.layers, m.d_byte, m.encoder.heads, 1.0, flops.blocked(m.encoder.window, length)),
        (m.decoder.layers, m.d_byte, m.decoder.heads, 1.0, flops.blocked(m.decoder.window, length)),
    ]
    if m.trunk.kind != "none":
        found.append((m.trunk.layers, m.trunk.d_model, m.trunk.heads, slots, config_lib.slots(config)[0] / 2))
        if m.entropy_head.weight > 0:
            found.append((m.entropy_head.layers, m.d_byte, m.encoder.heads, 1.0, flops.blocked(m.encoder.window, length)))
    return found


def _states(config, fused: bool) -> float:
    """Bytes per byte of text that one forward pass moves beside its matrix products."""
    item, total = jnp.dtype(config.training.dtype).itemsize, 0.0
    for layers, width, heads, positions, keys in _tiers(config):
        # In XLA, logits of the attention are written and read in float32, their weights in the activations' type.
        logits = 0 if fused else heads * keys * (8 + 2 * item)
        total += layers * positions * (_block(config, width) * item + logits)
    return total


def _block(config, width: int) -> float:
    """Numbers that one block reads and writes at one position."""
    return _WIDTHS * width + _HIDDENS * ffn_width(width, config.model.ffn_multiplier)


def _workspace(config, fused: bool) -> float:
    """Bytes per byte of text of the widest block at work, its gradient included, and of the pooled windows."""
    item, d = jnp.dtype(config.training.dtype).itemsize, config.model.d_byte
    blocks = [
        positions * (_block(config, width) * item + (0 if fused else 8 * heads * keys))
        for layers, width, heads, positions, keys in _tiers(config)
        if layers
    ]
    pooled = sum(config_lib.slots(config)) / config.data.window * config_lib.patch_limit(config) * d * item * 4
    return max([*blocks, pooled])


def _activations(config, mesh: dict[str, int], parts: int) -> int:
    """Bytes that the forward pass of one part keeps, on one chip: what its backward function closes over."""
    # A row at least; several chips may share one by its positions.
    rows = max(config.training.batch_rows // parts // math.prod(n for axis, n in mesh.items() if axis != "sequence"), 1)
    definition, weights = weights_lib.abstract(config)
    rest = {part: x for part, x in weights.items() if part != "params"}
    tokens = jax.ShapeDtypeStruct((rows, config.data.window + 1), jnp.int32)

    def backward(params, rest, tokens_BM):
        value = lambda p: loss_lib.loss(p, rest, definition, tokens_BM, 1.0, config.model.entropy_head.weight)[0]  # noqa: E731
        return jax.vjp(value, params)[1]

    kept = jax.tree.leaves(jax.eval_shape(backward, weights["params"], rest, tokens))
    known = {(x.shape, x.dtype) for x in jax.tree.leaves(weights)}
    size = 0
    for x in kept:
        # Weights, and their copies in the activations' type, are counted elsewhere.
        if (x.shape, x.dtype) in known or (x.shape, jnp.dtype(jnp.float32)) in known or x.ndim < 2:
            continue
        # The trunk's rows are not split over tensor, only what lies inside its blocks.
        copies = mesh["tensor"] if x.shape[-1] == config.model.trunk.d_model else 1
        size += x.size * x.dtype.itemsize * copies
    return size // mesh["sequence"]
