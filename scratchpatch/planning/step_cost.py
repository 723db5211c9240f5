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
from scratchpatch.kernels import choice, cost
from scratchpatch.model import loss as loss_lib, weights as weights_lib
from scratchpatch.model.layers import ffn_width

# What a long series of large operations reaches of the data sheet (bf16 GEMM on an H200: 790 of 989 TFLOP/s; copies 4.3
# of 4.8 TB/s); networks are taken to reach as much.
ATTAINABLE = 0.8
# Reads and writes of states that fusion leaves in one layer at one position: of its width, and of its hidden width.
_WIDTHS, _HIDDENS = 12, 4
# Reads and writes of a state-space layer's states in one pass: coefficients, and the rounds of an associative scan.
_STATES = 8
# Bytes read and written per parameter: the parameter and both moments, float32.
_ADAMW = 24
# Passes over these states, in units of the forward one: the backward pass takes two, recomputation the rest.
_PASSES = {"none": 3, "dots": 3.5, "ffn": 3.75, "offload": 3.75, "full": 4}


@dataclasses.dataclass(frozen=True)
class StepCost:
    """The cost of one step on one chip. flops: run; useful: without padding, masked keys and recomputation. kernels:
    the passes of attention kernels, whose FLOPs are among those that run. traffic: bytes moved by what is no matrix
    product and in no kernel. offloaded: bytes sent to the host's memory, and back. parameters, optimizer, activations:
    bytes held, the last from the forward to the backward pass. workspace: bytes of gradients and temporaries. padding:
    share of the trunk's slots that no decision fills.
    """

    flops: float
    useful: float
    kernels: tuple[cost.Pass, ...]
    traffic: float
    offloaded: float
    parameters: int
    optimizer: int
    activations: int
    workspace: int
    padding: float


@dataclasses.dataclass(frozen=True)
class _Stack:
    """Layers of one kind. positions: per byte of text. attention: the passes of one layer's, over one row."""

    layers: int
    width: int
    kv_width: int
    positions: float
    fused: bool
    attention: dict[str, cost.Pass]


def step_cost(config, parts: int) -> StepCost:
    """The cost of a step of a config with a settled mesh, on the platform that `attention.platform` says."""
    length, shards, remat = config.data.window, config.mesh.fsdp, config.training.remat
    bytes_per_chip = config.training.batch_rows * length / math.prod(config.mesh.values())
    commits, scratchpads = account.rates(config)
    slots = sum(config_lib.slots(config)) / length
    parameters = 4 * sum(x.size for x in jax.tree.leaves(weights_lib.abstract(config)[1]["params"]))
    gathered = parameters / 2 * (2 + (remat != "none")) * parts
    stacks = _stacks(config, parts)
    passes = [(stack, x) for stack in stacks for x in _passes(stack, remat, bytes_per_chip / length)]
    kept = _kept(config, parts)
    # What stays on the chip where the rest is sent away is what a layer reads.
    held = _kept(with_remat(config, "full"), parts) if remat == "offload" else kept
    states = bytes_per_chip * _states(config, stacks)
    # What is kept beside the states that a forward pass writes anyway is written and read once more.
    traffic = states * _PASSES[remat] + 2 * max(kept * parts - states, 0)
    return StepCost(
        flops=bytes_per_chip * _products(config, stacks, slots) + sum(x.flops for _, x in passes),
        useful=sum(flops.training(config, commits, scratchpads, length).values()) * bytes_per_chip,
        kernels=tuple(x for stack, x in passes if stack.fused),
        traffic=traffic + sum(x.moved for stack, x in passes if not stack.fused) + gathered
        + parameters / 4 * _ADAMW / shards,
        offloaded=(kept - held) * parts, parameters=parameters // shards, optimizer=2 * parameters // shards,
        activations=held, workspace=int(parameters / shards + bytes_per_chip / parts * _workspace(config, stacks)),
        padding=1 - (commits + scratchpads) / slots if slots else 0.0,
    )


def with_remat(config, remat: str):
    """A copy of the config under another policy."""
    return config_lib.from_flat(config_lib.flat(config) | {"training.remat": remat})


def _stacks(config, parts: int) -> list[_Stack]:
    m, length = config.model, config.data.window
    dtype = jnp.dtype(config.training.dtype)
    rows = _rows(config, parts)

    def states(layers: int, width: int, positions: float) -> _Stack:
        # By chunks in main memory: the numbers of a position are written and read a few times.
        numbers = m.ssm.state * (1 + m.ssm.complex) * width * positions * length
        forward = cost.Pass(0, 0.0, 0.0, _STATES * 4 * numbers)
        passes = {"forward": forward, "backward": dataclasses.replace(forward, moved=2 * forward.moved)}
        return _Stack(layers, width, width, positions, False, passes)

    def tier(layers: int, heads: int, window: int, kind: str = "attention") -> _Stack:
        if kind == "ssm":
            return states(layers, m.d_byte, 1.0)
        q = jax.ShapeDtypeStruct((rows, length, heads, m.d_byte // heads), dtype)
        backend = choice.window(config.kernels.window, q, window).backend
        shape = cost.Shape(1, length, length, heads, heads, q.shape[3], dtype.itemsize, window)
        passes = cost.attention(backend, shape, *cost.window_ranges(length, window))
        return _Stack(layers, m.d_byte, m.d_byte, 1.0, backend != "xla", passes)

    stacks = [tier(t.layers, t.heads, t.window, t.kind) for t in (m.encoder, m.decoder)]
    if m.trunk.kind == "none":
        return stacks
    if m.entropy_head.weight > 0:
        stacks.append(tier(m.entropy_head.layers, m.encoder.heads, m.encoder.window))
    t, (commits, scratchpads) = m.trunk, config_lib.slots(config)
    slots, groups, width = commits + scratchpads, t.kv_heads or t.heads, t.d_model // t.heads
    if t.kind == "ssm":
        return [*stacks, states(t.layers, t.d_model, slots / length)]
    q, k = (jax.ShapeDtypeStruct((rows, *shape, width), dtype) for shape in ((slots, t.heads), (commits, groups)))
    backend = choice.staircase(config.kernels.staircase, q, k).backend
    shape = cost.Shape(1, slots, commits, t.heads, groups, width, dtype.itemsize)
    passes = cost.attention(backend, shape, *cost.staircase_ranges(commits, scratchpads))
    return [*stacks, _Stack(t.layers, t.d_model, groups * width, slots / length, backend != "xla", passes)]


def _rows(config, parts: int) -> int:
    """Rows of a part on a chip; one at least, since several chips may share one by its positions."""
    shares = math.prod(size for axis, size in config.mesh.items() if axis != "sequence")
    return max(config.training.batch_rows // parts // shares, 1)


def _passes(stack: _Stack, remat: str, rows: float) -> list[cost.Pass]:
    """The passes of a stack's attention over all layers and so many rows. Policies that keep what a kernel gives need
    no second forward pass of it; XLA's is repeated.
    """
    again = remat == "full" or (remat != "none" and not stack.fused)
    passes = [*stack.attention.values()] + [stack.attention["forward"]] * again
    times = stack.layers * rows
    return [
        dataclasses.replace(x, **{f: getattr(x, f) * times for f in ("visits", "flops", "exponentials", "moved")})
        for x in passes
    ]


def _products(config, stacks: list[_Stack], slots: float) -> float:
    """FLOPs per byte of all passes, but for the attention of layers."""
    m, remat = config.model, config.training.remat
    forward = flops.products(config, config.data.window)
    # Frozen, and where nothing reads its entropies it does not run.
    entropy_model = forward.pop("entropy model", 0.0) * config_lib.reads_entropy(config)
    again = sum(
        stack.layers * stack.positions * flops.recomputed(stack.width, stack.kv_width, m.ffn_multiplier, remat)
        for stack in stacks
    )
    if remat not in ("none", "dots") and m.decoder.injection == "cross_attention" and m.trunk.kind != "none":
        again += m.decoder.layers * flops.cross_attention(config, slots)
    return 3 * sum(forward.values()) + again + entropy_model * (not config.data.entropies)


def _states(config, stacks: list[_Stack]) -> float:
    """Bytes per byte of text that one forward pass moves beside its products and its attention."""
    item = jnp.dtype(config.training.dtype).itemsize
    return sum(stack.layers * stack.positions * _layer(config, stack.width) * item for stack in stacks)


def _layer(config, width: int) -> float:
    """Numbers that one layer reads and writes at one position."""
    return _WIDTHS * width + _HIDDENS * ffn_width(width, config.model.ffn_multiplier)


def _workspace(config, stacks: list[_Stack]) -> float:
    """Bytes per byte of text of the widest layer at work, its gradient included, and of the pooled windows."""
    item, d, length = jnp.dtype(config.training.dtype).itemsize, config.model.d_byte, config.data.window
    at_work = [
        stack.positions * _layer(config, stack.width) * item
        + (0 if stack.fused else 8 * stack.attention["forward"].exponentials / length)
        for stack in stacks
        if stack.layers
    ]
    pooled = sum(config_lib.slots(config)) / length * config_lib.patch_limit(config) * d * item * 4
    return max([*at_work, pooled])


def _kept(config, parts: int) -> int:
    """Bytes that the forward pass of one part keeps, on one chip: what its backward function closes over."""
    definition, weights = weights_lib.abstract(config)
    rest = {part: x for part, x in weights.items() if part != "params"}
    tokens = jax.ShapeDtypeStruct((_rows(config, parts), config.data.window + 1), jnp.int32)

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
