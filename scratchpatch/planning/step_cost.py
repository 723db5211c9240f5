"""What one train step costs a chip: FLOPs, memory traffic and memory, by arithmetic alone: estimates for a plan.

Matrix products are counted as the program runs them, padding, masked keys and recomputation included; the rest is the
memory traffic of what XLA does not fuse into them.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from scratchpatch import config as config_lib
from scratchpatch.accounting import account, flops
from scratchpatch.model import loss as loss_lib, weights as weights_lib
from scratchpatch.model.layers import ffn_width

# What a long series of large operations reaches of the data sheet (bf16 GEMM on an H200: 790 of 989 TFLOP/s; copies 4.3
# of 4.8 TB/s); networks are taken to reach as much.
ATTAINABLE = 0.8
# Reads and writes of states that fusion leaves in one layer at one position: of its width, and of its hidden width.
_WIDTHS, _HIDDENS = 12, 4
# Bytes read and written per parameter: the parameter and both moments, float32.
_ADAMW = 24
# Passes in units of the forward one: the backward pass takes two, recomputation the rest.
_PASSES = {"none": 3, "dots": 3.5, "full": 4}


@dataclasses.dataclass(frozen=True)
class StepCost:
    """The cost of one step on one chip. flops: run; useful: without padding, masked keys and recomputation. traffic:
    bytes moved by what is no matrix product. parameters, optimizer, activations: bytes held, the last from the forward
    to the backward pass. workspace: bytes of gradients and temporaries. padding: share of the trunk's slots that no
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


def step_cost(config, parts: int, fused: bool) -> StepCost:
    """The cost of a step of a config with a settled mesh; fused: attention by a kernel that writes no logits."""
    length, shards = config.data.window, config.mesh.fsdp
    bytes_per_chip = config.training.batch_rows * length / math.prod(config.mesh.values())
    commits, scratchpads = account.rates(config)
    passes = _PASSES[config.training.remat]
    allocated = sum(config_lib.slots(config)) / length
    parameters = 4 * sum(x.size for x in jax.tree.leaves(weights_lib.abstract(config)[1]["params"]))
    gathered = parameters / 2 * (2 + (config.training.remat != "none")) * parts
    states = bytes_per_chip * _states(config, fused) * passes
    return StepCost(
        flops=sum(flops.compiled(config, length).values()) * passes * bytes_per_chip,
        useful=sum(flops.training(config, commits, scratchpads, length).values()) * bytes_per_chip,
        traffic=states + gathered + parameters / 4 * _ADAMW / shards, parameters=parameters // shards,
        optimizer=2 * parameters // shards, activations=_activations(config, parts),
        workspace=int(parameters / shards + bytes_per_chip / parts * _workspace(config, fused)),
        padding=1 - (commits + scratchpads) / allocated if allocated else 0.0,
    )


def _stacks(config) -> list[tuple[int, int, int, float, float]]:
    """(layers, width, heads, positions per byte, keys per position) of each stack; keys that the program multiplies."""
    m, length = config.model, config.data.window
    commits, scratchpads = config_lib.slots(config)
    encoder_keys, decoder_keys = (flops.multiplied_keys(tier.window, length) for tier in (m.encoder, m.decoder))
    stacks = [
        (m.encoder.layers, m.d_byte, m.encoder.heads, 1.0, encoder_keys),
        (m.decoder.layers, m.d_byte, m.decoder.heads, 1.0, decoder_keys),
    ]
    if m.trunk.kind != "none":
        stacks.append((m.trunk.layers, m.trunk.d_model, m.trunk.heads, (commits + scratchpads) / length, commits / 2))
        if m.entropy_head.weight > 0:
            stacks.append((m.entropy_head.layers, m.d_byte, m.encoder.heads, 1.0, encoder_keys))
    return stacks


def _states(config, fused: bool) -> float:
    """Bytes per byte of text that one forward pass moves beside its matrix products."""
    item, total = jnp.dtype(config.training.dtype).itemsize, 0.0
    for layers, width, heads, positions, keys in _stacks(config):
        # In XLA, logits of the attention are written and read in float32, their weights in the activations' type.
        logits = 0 if fused else heads * keys * (8 + 2 * item)
        total += layers * positions * (_layer(config, width) * item + logits)
    return total


def _layer(config, width: int) -> float:
    """Numbers that one layer reads and writes at one position."""
    return _WIDTHS * width + _HIDDENS * ffn_width(width, config.model.ffn_multiplier)


def _workspace(config, fused: bool) -> float:
    """Bytes per byte of text of the widest layer at work, its gradient included, and of the pooled windows."""
    item, d = jnp.dtype(config.training.dtype).itemsize, config.model.d_byte
    at_work = [
        positions * (_layer(config, width) * item + (0 if fused else 8 * heads * keys))
        for layers, width, heads, positions, keys in _stacks(config)
        if layers
    ]
    pooled = sum(config_lib.slots(config)) / config.data.window * config_lib.patch_limit(config) * d * item * 4
    return max([*at_work, pooled])


def _activations(config, parts: int) -> int:
    """Bytes that the forward pass of one part keeps, on one chip: what its backward function closes over."""
    # A row at least; several chips may share one by its positions.
    shares = math.prod(size for axis, size in config.mesh.items() if axis != "sequence")
    rows = max(config.training.batch_rows // parts // shares, 1)
    definition, weights = weights_lib.abstract(config)
    rest = {part: x for part, x in weights.items() if part != "params"}
    tokens = jax.ShapeDtypeStruct((rows, config.data.window + 1), jnp.int32)

    def backward(params, rest, tokens_BM):
        def loss(params):
            return loss_lib.loss(params, rest, definition, tokens_BM, 1.0, config.model.entropy_head.weight)[0]

        return jax.vjp(loss, params)[1]

    closed_over = jax.tree.leaves(jax.eval_shape(backward, weights["params"], rest, tokens))
    own = {(x.shape, x.dtype) for x in jax.tree.leaves(weights)}
    size = 0
    for x in closed_over:
        # Weights, and their copies in the activations' type, are counted elsewhere.
        if (x.shape, x.dtype) in own or (x.shape, jnp.dtype(jnp.float32)) in own or x.ndim < 2:
            continue
        # The trunk's rows are not split over tensor, only what lies inside its layers.
        copies = config.mesh.tensor if x.shape[-1] == config.model.trunk.d_model else 1
        size += x.size * x.dtype.itemsize * copies
    return size // config.mesh.sequence
