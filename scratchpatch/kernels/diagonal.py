"""Diagonal linear recurrences over the positions of packed documents: `mix` for whole rows, `carry_on` for new ones.

A channel has S states, each a number that decays, and turns where numbers are complex:
    x_t = a_t x_{t-1} + b_t u_t,    y_t = Re(sum over the states of c x_t),
    a_t = exp(step_t (-exp(decay) + i frequency)),    b_t = sqrt(1 - |a_t|^2).
|a_t| < 1 whatever the parameters are (S4D, arXiv 2206.11893; LRU, arXiv 2303.06349), and b keeps the variance of a
state at that of its input (LRU, section 3.4), where S4D has a zero-order hold. A step that depends on the position
makes the recurrence selective (Mamba, arXiv 2312.00752; with this b: Griffin, arXiv 2402.19427).

A position may forget all that was before it (a document starts there), and may leave no trace (a scratchpad, PAD). The
arithmetic is float32 whatever the inputs are. No array [B, T, S, e] of all positions exists: rows are read in chunks,
whose states the backward pass computes again.

Legend: B rows, T positions, K positions of a chunk, e channels, S states of a channel. A number is a tuple of its real
and, where it has one, its imaginary part.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from scratchpatch import sharding
from scratchpatch.kernels import choice
from scratchpatch.kernels.sequence import AXIS

Number = tuple[jax.Array, ...]

# So many positions at a time: the states of one chunk are what the backward pass holds.
CHUNK = 32
# Multiplications and additions at one position of one state: of `advance`, and of `said`.
FLOPS_REAL, FLOPS_COMPLEX = 3 + 2, 8 + 4
# |a| is at most exp(-this), which float32 tells from 1.
_LEAST = 1e-6


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class System:
    """What channels do, float32 [S, e] each.

    Attributes:
      decay: natural logarithm of the rate at which a state decays per unit of step.
      frequency: radians per unit of step; None: numbers are real.
      read: c, a number.
    """

    decay: jax.Array
    frequency: jax.Array | None
    read: Number

    def empty(self, rows: int) -> Number:
        """States [B, S, e] before anything is read."""
        return tuple(jnp.zeros((rows, *part.shape), jnp.float32) for part in self.read)

    def coefficients(self, step_e: jax.Array) -> tuple[Number, jax.Array]:
        """a and b, [..., S, e], of steps [..., e]."""
        step_1e = step_e[..., None, :]
        rate_Se = jnp.maximum(step_1e * jnp.exp(self.decay), _LEAST)
        size_Se, b_Se = jnp.exp(-rate_Se), jnp.sqrt(-jnp.expm1(-2 * rate_Se))
        if self.frequency is None:
            return (size_Se,), b_Se
        angle_Se = step_1e * self.frequency
        return (size_Se * jnp.cos(angle_Se), size_Se * jnp.sin(angle_Se)), b_Se


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """What one layer keeps of the positions that it has read: a number [B, S, e], float32."""

    parts: Number

    @staticmethod
    def empty(rows: int, states: int, channels: int, is_complex: bool) -> "State":
        """Of rows of which nothing is read."""
        return State(tuple(jnp.zeros((rows, states, channels), jnp.float32) for _ in range(1 + is_complex)))

    def spread(self, rows: str, channels: str) -> "State":
        """The same in its place on the current mesh, by the logical names of its axes."""
        return jax.tree.map(lambda x: sharding.constrain(x, "cache", rows, None, channels), self)

    def rows(self, row_B) -> "State":
        """Those of the rows named; of one that does not exist, those of the last."""
        return jax.tree.map(lambda x: x.at[row_B].get(mode="clip"), self)


def mix(system: System, u_BTe, step, fresh_BT, axes: sharding.Axes, kept_BT=None) -> jax.Array:
    """y [B, T, e], float32, of whole rows, on the current mesh: spread over rows, positions and channels.

    Args:
      step: float32, above 0: [e], or [B, T, e] where it depends on the position.
      fresh_BT: bool, whether the position forgets what was before it.
      axes: logical names of the rows, positions and channels (`inner`).
      kept_BT: bool, whether later positions read this one; None: all are.
    """
    kept_BT = jnp.ones_like(fresh_BT) if kept_BT is None else kept_BT
    mesh = sharding.spread_mesh()
    if mesh is None:
        return _scan(system, u_BTe, step, fresh_BT, kept_BT, system.empty(u_BTe.shape[0]))[1]

    def on_device(system, u_BTe, step, fresh_BT, kept_BT):
        before = system.empty(u_BTe.shape[0])
        if mesh.shape.get(AXIS, 1) > 1:
            before = _arriving(system, u_BTe, step, fresh_BT, kept_BT, before)
        return _scan(system, u_BTe, step, fresh_BT, kept_BT, before)[1]

    def spec(names, x):
        return sharding.spec(names, x.shape, mesh, "a recurrence")

    whole = (axes.rows, axes.positions, axes.inner)
    of_step = whole if step.ndim == 3 else (axes.inner,)
    of_system = jax.tree.map(lambda x: spec((None, axes.inner), x), system)
    in_specs = of_system, spec(whole, u_BTe), spec(of_step, step), *[spec(whole[:2], fresh_BT)] * 2
    mapped = jax.shard_map(on_device, in_specs=in_specs, out_specs=spec(whole, u_BTe), check_vma=False)
    return mapped(system, u_BTe, step, fresh_BT, kept_BT)


def carry_on(system: System, u_BTe, step, fresh_BT, kept_BT, state: State) -> tuple[jax.Array, State]:
    """(y [B, T, e], float32; the state after them) of new positions; see `mix`. A row's positions are on one device."""
    parts, y_BTe = _scan(system, u_BTe, step, fresh_BT, kept_BT, state.parts)
    return y_BTe, State(parts)


def _arriving(system, u_BTe, step, fresh_BT, kept_BT, empty: Number) -> Number:
    """The state in which each device of a row finds its first position: what all devices before it leave.

    What a device leaves is linear in what it finds: its own end from nothing, and that of ones without any input.
    """
    ones = (jnp.ones_like(empty[0]), *map(jnp.zeros_like, empty[1:]))

    def twice(x, other):
        return jnp.concatenate([x, other])

    both = tuple(map(twice, empty, ones))
    steps = step if step.ndim == 1 else twice(step, step)
    masks = twice(fresh_BT, fresh_BT), twice(kept_BT, kept_BT)
    ends, _ = _scan(system, twice(u_BTe, jnp.zeros_like(u_BTe)), steps, *masks, both)
    ends, factors = zip(*(jnp.split(jax.lax.all_gather(x, AXIS), 2, axis=1) for x in ends), strict=True)
    state = empty
    for device in range(jax.lax.axis_size(AXIS) - 1):
        later = _plus(_times([x[device] for x in factors], state), [x[device] for x in ends])
        state = _where(device < jax.lax.axis_index(AXIS), later, state)
    return state


def _scan(system, u_BTe, step, fresh_BT, kept_BT, before: Number) -> tuple[Number, jax.Array]:
    """(the state after them, y [B, T, e]) of the positions that one device has."""
    selective = step.ndim == 3
    fixed = None if selective else system.coefficients(step)
    inputs = (u_BTe.astype(jnp.float32), fresh_BT, kept_BT, step if selective else None)
    length = u_BTe.shape[1]
    if length == 1:
        state, y_Be = _position(system, fixed, before, jax.tree.map(lambda x: x[:, 0], inputs))
        return state, y_Be[:, None]
    size = min(CHUNK, length)
    chunks = -(-length // size)

    def split(x):
        # What is put behind a row leaves no trace, since it is not kept.
        x = jnp.pad(x, [(0, 0), (0, chunks * size - length), *[(0, 0)] * (x.ndim - 2)]).swapaxes(0, 1)
        return x.reshape(chunks, size, *x.shape[1:])

    # A loop over positions stays in a processor's cache; elsewhere a chunk's positions are computed together.
    run = _in_turn if choice.traced_platform() == "cpu" else _together
    chunk = jax.checkpoint(functools.partial(run, system, fixed), prevent_cse=False)
    state, y_CKBe = jax.lax.scan(chunk, before, jax.tree.map(split, inputs))
    return state, y_CKBe.reshape(-1, *y_CKBe.shape[2:])[:length].swapaxes(0, 1)


def _position(system: System, fixed, before: Number, inputs) -> tuple[Number, jax.Array]:
    """(the state after, y [..., B, e]) of one position of every row, or of several at once."""
    u_Be, fresh_B, kept_B, step_Be = inputs
    a, b_Se = fixed or system.coefficients(step_Be)
    found = _where(~fresh_B[..., None, None], before, tuple(map(jnp.zeros_like, before)))
    now = advance(a, b_Se, found, u_Be)
    return _where(kept_B[..., None, None], now, before), said(system.read, now)


def advance(a: Number, b_Se: jax.Array, before: Number, u_e: jax.Array) -> Number:
    """a x + b u, [..., S, e]."""
    real, *imaginary = _times(a, before)
    return real + b_Se * u_e[..., None, :], *imaginary


def said(read: Number, state: Number) -> jax.Array:
    """Re(c x), added up over a channel's states: [..., e]."""
    return _times(read, state)[0].sum(axis=-2)


def _in_turn(system: System, fixed, before: Number, inputs):
    """A chunk, one position after the other. Of each the backward pass keeps the state alone."""
    position = jax.checkpoint(functools.partial(_position, system, fixed), prevent_cse=False)
    return jax.lax.scan(position, before, inputs)


def _together(system: System, fixed, before: Number, inputs):
    """The same chunk by an associative scan: of two neighbouring maps x -> a x + b one is made."""
    u_KBe, fresh_KB, kept_KB, step_KBe = inputs
    a, b_Se = fixed or system.coefficients(step_KBe)
    kept_KB11, stays_KB11 = kept_KB[..., None, None], ~fresh_KB[..., None, None]
    zero = jnp.zeros((*u_KBe.shape[:2], *system.decay.shape), jnp.float32)
    still = (zero + 1, *[zero] * (len(a) - 1))
    factor = _where(kept_KB11, tuple(jnp.where(stays_KB11, part, zero) for part in a), still)
    term = (jnp.where(kept_KB11, b_Se * u_KBe[..., None, :], zero), *[zero] * (len(a) - 1))
    first = _plus(_times([x[0] for x in factor], before), [x[0] for x in term])
    term = tuple(x.at[0].set(y) for x, y in zip(term, first, strict=True))

    def join(one, other):
        return _times(other[0], one[0]), _plus(_times(other[0], one[1]), other[1])

    _, after = jax.lax.associative_scan(join, (factor, term))
    found = tuple(jnp.concatenate([x[None], y[:-1]]) for x, y in zip(before, after, strict=True))
    return tuple(x[-1] for x in after), _position(system, fixed, found, inputs)[1]


def _times(x: Number, y: Number) -> Number:
    if len(x) == 1:
        return (x[0] * y[0],)
    return x[0] * y[0] - x[1] * y[1], x[0] * y[1] + x[1] * y[0]


def _plus(x: Number, y: Number) -> Number:
    return tuple(a + b for a, b in zip(x, y, strict=True))


def _where(mask, x: Number, y: Number) -> Number:
    return tuple(jnp.where(mask, a, b) for a, b in zip(x, y, strict=True))
