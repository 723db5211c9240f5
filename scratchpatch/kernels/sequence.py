"""Attention of rows whose positions are spread over the mesh's sequence axis.

A device computes its own queries. Of bytes it is sent those of the window
before its first; of slots, the keys and values of all commits, which are few.

Legend: B rows, L byte positions, N slots, P commits, H heads, K head width.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from scratchpatch import sharding
from scratchpatch.errors import UserError
from scratchpatch.kernels import ranges

AXIS = "sequence"


def devices() -> int:
    """Over how many devices positions are spread; 1 inside a device's part."""
    over = ranges.mesh()
    return 1 if over is None else over.shape.get(AXIS, 1)


def over_slots(run: Callable, q_BNHK, k_BPGK, v_BPGK, own_k_BNGK, own_v_BNGK, first_BN, last_BN) -> jax.Array:
    """`run` on each device's slots and all commits."""
    rows, heads = ranges.TRUNK.rows, ranges.TRUNK.heads
    slots, whole, ranges_of = (rows, "slots", heads, None), (rows, None, heads, None), (rows, "slots")
    names = (slots, whole, whole, slots, slots, ranges_of, ranges_of)
    return _map(run, names, slots, q_BNHK, k_BPGK, v_BPGK, own_k_BNGK, own_v_BNGK, first_BN, last_BN)


def over_positions(run: Callable, q_BLHK, k_BLHK, v_BLHK, start_BL, window: int) -> jax.Array:
    """`run(q, k, v, start)` on each device's positions, the window before them put in front.

    Raises:
      UserError: a device has fewer positions than a window.
    """
    here = q_BLHK.shape[1] // devices()
    if here < window:
        raise UserError(
            f"mesh.sequence = {devices()} leaves {here} bytes of a row to each device, less than a local window of {window}: "
            "lower mesh.sequence or the window"
        )

    def part(q, k, v, start_BL):
        behind = [(i, i + 1) for i in range(jax.lax.axis_size(AXIS) - 1)]
        # The first device is sent zeros, which no position of its documents reaches.
        before = lambda x: jax.lax.ppermute(x[:, -window:], AXIS, behind)  # noqa: E731
        with_before = lambda x: jnp.concatenate([before(x), x], axis=1)  # noqa: E731
        begin = jax.lax.axis_index(AXIS) * here - window
        alone_BL = jnp.broadcast_to(jnp.arange(window, dtype=jnp.int32), (q.shape[0], window))
        start_BL = jnp.concatenate([alone_BL, jnp.maximum(start_BL - begin, 0)], axis=1)
        q = jnp.pad(q, ((0, 0), (window, 0), (0, 0), (0, 0)))
        return run(q, with_before(k), with_before(v), start_BL)[:, window:]

    rows, heads = ranges.LOCAL.rows, ranges.LOCAL.heads
    positions = (rows, "positions", heads, None)
    return _map(part, (positions,) * 3 + (positions[:2],), positions, q_BLHK, k_BLHK, v_BLHK, start_BL)


def _map(run: Callable, names, result, *arrays) -> jax.Array:
    spec = lambda names, x: sharding.spec(names, x.shape, ranges.mesh(), "attention")  # noqa: E731
    in_specs = tuple(spec(n, x) for n, x in zip(names, arrays, strict=True))
    return jax.shard_map(run, in_specs=in_specs, out_specs=spec(result, arrays[0]), check_vma=False)(*arrays)
