"""Attention of rows whose positions are spread over the mesh's sequence axis: README.md says what devices are sent.

Legend: B rows, L byte positions, N slots, P commits, H heads, K head width.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from scratchpatch import sharding
from scratchpatch.errors import UserError

AXIS = "sequence"


def over_slots(attend: Callable, q_BNHK, k_BPGK, v_BPGK, own_k_BNGK, own_v_BNGK, begin_BN, end_BN) -> jax.Array:
    """`attend` on each device's slots and all commits."""
    arrays = q_BNHK, k_BPGK, v_BPGK, own_k_BNGK, own_v_BNGK, begin_BN, end_BN
    if devices() == 1:
        return attend(*arrays)
    rows, heads = sharding.TRUNK.rows, sharding.TRUNK.heads
    slots, whole, seen = (rows, "slots", heads, None), (rows, None, heads, None), (rows, "slots")
    return _map(attend, (slots, whole, whole, slots, slots, seen, seen), slots, *arrays)


def over_positions(attend: Callable, q_BLHK, k_BLHK, v_BLHK, start_BL, window: int) -> jax.Array:
    """`attend(q, k, v, start)` on each device's positions, the window before them put in front.

    Raises UserError where a device has fewer positions than a window.
    """
    if devices() == 1:
        return attend(q_BLHK, k_BLHK, v_BLHK, start_BL)
    here = q_BLHK.shape[1] // devices()
    if here < window:
        raise UserError(
            f"mesh.sequence = {devices()} leaves {here} bytes of a row to each device, less than a local window of "
            f"{window}: lower mesh.sequence or the window"
        )

    def with_before(x):
        # The device of a row's beginning is sent zeros, which no position of its documents reaches.
        behind = [(i, i + 1) for i in range(jax.lax.axis_size(AXIS) - 1)]
        return jnp.concatenate([jax.lax.ppermute(x[:, -window:], AXIS, behind), x], axis=1)

    def on_device(q, k, v, start_BL):
        begin = jax.lax.axis_index(AXIS) * here - window
        alone_BL = jnp.broadcast_to(jnp.arange(window, dtype=jnp.int32), (q.shape[0], window))
        start_BL = jnp.concatenate([alone_BL, jnp.maximum(start_BL - begin, 0)], axis=1)
        q = jnp.pad(q, ((0, 0), (window, 0), (0, 0), (0, 0)))
        return attend(q, with_before(k), with_before(v), start_BL)[:, window:]

    tier = sharding.BYTE_TIER
    positions = (tier.rows, "positions", tier.heads, None)
    return _map(on_device, (positions,) * 3 + (positions[:2],), positions, q_BLHK, k_BLHK, v_BLHK, start_BL)


def devices() -> int:
    """Over how many devices positions are spread; 1 inside one device's part."""
    mesh = sharding.spread_mesh()
    return 1 if mesh is None else mesh.shape.get(AXIS, 1)


def _map(attend: Callable, names, result, *arrays) -> jax.Array:
    def spec(names, x):
        return sharding.spec(names, x.shape, sharding.spread_mesh(), "attention")

    in_specs = tuple(spec(n, x) for n, x in zip(names, arrays, strict=True))
    return jax.shard_map(attend, in_specs=in_specs, out_specs=spec(result, arrays[0]), check_vma=False)(*arrays)
