"""Diagonal recurrences against a plain one: values and gradients, at once and in pieces, on one device and on many.

Legend: B rows, T positions, e channels, S states of a channel.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch import sharding
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.kernels import choice, diagonal
from scratchpatch.kernels.diagonal import State, System
from tests import tiny

B, T, E, S = 4, 72, 4, 3  # Two whole chunks and a part of one; eight devices divide it.
KINDS = [(False, False), (True, False), (True, True)]


def system(is_complex: bool) -> System:
    rng = np.random.default_rng(1)

    def draw():
        return jnp.asarray(rng.normal(size=(S, E)), jnp.float32)

    return System(draw() - 1, draw() * 2 if is_complex else None, tuple(draw() for _ in range(1 + is_complex)))


def inputs(selective: bool):
    """u, steps, positions that forget what was before them, and those that leave a trace."""
    rng = np.random.default_rng(2)
    u_BTe = jnp.asarray(rng.normal(size=(B, T, E)), jnp.float32)
    step = jnp.asarray(rng.uniform(0.01, 2.0, (B, T, E) if selective else (E,)), jnp.float32)
    fresh_BT, kept_BT = rng.random((B, T)) < 0.08, rng.random((B, T)) < 0.7
    # A row that begins inside a document, one of a single document, and one that ends in PAD, which leaves no trace.
    fresh_BT[0, 0], fresh_BT[1], kept_BT[2, -9:] = False, False, False
    return u_BTe, step, jnp.asarray(fresh_BT), jnp.asarray(kept_BT)


def plain(system, u_BTe, step, fresh_BT, kept_BT):
    """The recurrence as the module's docstring has it, one position after the other, in complex numbers."""
    frequency = 0.0 if system.frequency is None else system.frequency
    read = system.read[0] + (1j * system.read[1] if len(system.read) > 1 else 0)

    def one(x_BSe, position):
        u_Be, fresh_B, kept_B, step_e = position
        step_e = step if step.ndim == 1 else step_e[:, None]
        a = jnp.exp(step_e * (-jnp.exp(system.decay) + 1j * frequency))
        b = jnp.sqrt(1 - jnp.exp(-2 * step_e * jnp.exp(system.decay)))
        now = a * jnp.where(fresh_B[:, None, None], 0, x_BSe) + b * u_Be[:, None]
        return jnp.where(kept_B[:, None, None], now, x_BSe), (read * now).real.sum(axis=1)

    start = jnp.zeros((u_BTe.shape[0], *system.decay.shape), jnp.complex64)
    by_position = (x.swapaxes(0, 1) for x in (u_BTe, fresh_BT, kept_BT, u_BTe if step.ndim == 1 else step))
    end_BSe, y_TBe = jax.lax.scan(one, start, tuple(by_position))
    return y_TBe.swapaxes(0, 1), end_BSe


WEIGHT_BTE = jnp.asarray(np.random.default_rng(3).normal(size=(B, T, E)), jnp.float32)


def value_and_gradients(mix, system, u_BTe, step, *masks):
    def value(system, u_BTe, step):
        y_BTe = mix(system, u_BTe, step, *masks)
        return (y_BTe * WEIGHT_BTE).sum(), y_BTe

    gradients, y_BTe = jax.jit(jax.grad(value, argnums=(0, 1, 2), has_aux=True))(system, u_BTe, step)
    return y_BTe, gradients


@functools.cache
def wanted(is_complex: bool, selective: bool):
    return value_and_gradients(lambda *args: plain(*args)[0], system(is_complex), *inputs(selective))


def mixed(system, u_BTe, step, fresh_BT, kept_BT):
    return diagonal.mix(system, u_BTe, step, fresh_BT, sharding.BYTE_TIER, kept_BT)


def close(got, wanted):
    def check(x, y):
        # Gradients of parameters are sums over all positions.
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5 * max(1, np.abs(y).max()))

    jax.tree.map(check, got, wanted)


@pytest.mark.parametrize("platform", ("cpu", "tpu"))
@pytest.mark.parametrize(("is_complex", "selective"), KINDS)
def test_equals_a_plain_recurrence_in_values_and_gradients(is_complex, selective, platform, monkeypatch):
    """tpu: a chunk's positions together, by an associative scan."""
    monkeypatch.setattr(choice, "traced_platform", lambda: platform)
    close(value_and_gradients(mixed, system(is_complex), *inputs(selective)), wanted(is_complex, selective))


# Rows, positions and channels, each alone and together; a byte tier's rows lie over tensor, too.
MESHES = [{"sequence": 8}, {"data": 2, "tensor": 2, "sequence": 2}]


@pytest.mark.parametrize("axes", (sharding.BYTE_TIER, sharding.TRUNK), ids=("bytes", "slots"))
@pytest.mark.parametrize("sizes", MESHES, ids=str)
def test_a_mesh_changes_nothing(sizes, axes):
    made = mesh_lib.make(tiny.config({f"mesh.{axis}": size for axis, size in sizes.items()}))
    with jax.set_mesh(made):
        got = value_and_gradients(
            lambda system, u_BTe, step, fresh_BT, kept_BT: diagonal.mix(system, u_BTe, step, fresh_BT, axes, kept_BT),
            system(True),
            *inputs(True),
        )
    close(got, wanted(True, True))


@pytest.mark.parametrize(("is_complex", "selective"), KINDS[1:])
def test_pieces_leave_the_state_that_the_whole_leaves(is_complex, selective):
    u_BTe, step, fresh_BT, kept_BT = inputs(selective)
    state, y = State.empty(B, S, E, is_complex), []
    carry_on = jax.jit(functools.partial(diagonal.carry_on, system(is_complex)))
    for first, last in ((0, 1), (1, 2), (2, 40), (40, T)):
        piece = (x[:, first:last] for x in (u_BTe, step if selective else u_BTe, fresh_BT, kept_BT))
        u, steps, *masks = piece
        said, state = carry_on(u, steps if selective else step, *masks, state)
        y.append(said)
    end_BSe = plain(system(is_complex), u_BTe, step, fresh_BT, kept_BT)[1]
    close(jnp.concatenate(y, axis=1), wanted(is_complex, selective)[0])
    close(state.parts[0] + 1j * state.parts[1], end_BSe)


def test_states_shrink_whatever_the_parameters_are():
    extreme = jnp.full((1, E), 80.0)
    for decay, step in ((-extreme, 1e-9), (extreme, 1e9), (extreme, 1e-9), (-extreme, 1e9)):
        made = System(decay, extreme, (extreme, extreme))
        (real, imaginary), b_Se = made.coefficients(jnp.full((E,), step, jnp.float32))
        assert (real**2 + imaginary**2 < 1).all() and (b_Se > 0).all() and (b_Se <= 1).all()


def test_inputs_in_bfloat16_are_added_up_in_float32():
    u_BTe, step, *masks = inputs(False)
    rounded_BTe = u_BTe.astype(jnp.bfloat16)
    y_BTe = mixed(system(True), rounded_BTe, step, *masks)
    assert y_BTe.dtype == jnp.float32
    close(y_BTe, plain(system(True), rounded_BTe.astype(jnp.float32), step, *masks)[0])


def test_no_array_holds_the_states_of_all_positions():
    u_BTe, step, *masks = inputs(True)
    text = jax.jit(jax.grad(lambda step: mixed(system(True), u_BTe, step, *masks).sum())).lower(step).as_text()
    assert f"tensor<{diagonal.CHUNK}x{B}x{S}x{E}xf32>" in text
    assert all(f"tensor<{n}x{B}x{S}x{E}xf32>" not in text for n in (T, T + -T % diagonal.CHUNK))
