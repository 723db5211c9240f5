"""Each backend of the attention kernels that runs here, side by side, against dense logits where they fit.

Legend: B rows, L byte positions, N slots or positions, P commits.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from scratchpatch import config as config_lib
from scratchpatch import config_fields
from scratchpatch.bench import timing
from scratchpatch.bench.results import Result
from scratchpatch.errors import UserError
from scratchpatch.kernels import attention, xla

_BACKENDS = tuple(name for name in config_fields.BACKENDS if name != "auto")
_WINDOWS, _DOCUMENT, _SECONDS = (2048, 8192), 3000, 6.0
# Bytes of float32 logits that a dense reference may take; its gradient needs several times as much.
_DENSE = 1 << 28


def measure(config) -> Result:
    """Time and memory of value and gradient, for one row of the config's trunk and of its encoder."""
    numbers, notes = {}, []
    for length in _WINDOWS:
        for name, (calls, arrays) in {"staircase": _staircase(config, length), "window": _window(config, length)}.items():
            found, refused = _side_by_side(calls, arrays)
            for side, values in found.items():
                numbers.setdefault(side, {}).update({f"{name}_{length}_{key}": value for key, value in values.items()})
            notes += [f"not measured: {why}" for why in refused]
    return Result(
        f"attention of one row, value and gradient, documents of {_DOCUMENT} bytes",
        numbers,
        notes=tuple(dict.fromkeys(notes)),
    )


def _side_by_side(calls: dict, arrays) -> tuple[dict, list[str]]:
    """(side -> measures, why others do not run)."""
    runs, memory, refused = {}, {}, []
    for name, attend in calls.items():
        step = jax.jit(jax.value_and_grad(lambda *qkv, attend=attend: attend(*qkv).astype(jnp.float32).sum(), (0, 1, 2)))
        try:
            compiled = step.lower(*arrays).compile()
        except UserError as error:
            refused.append(str(error))
            continue
        memory[name] = compiled.memory_analysis().temp_size_in_bytes
        runs[name] = lambda compiled=compiled: jax.block_until_ready(compiled(*arrays))
    times = timing.take_turns(runs, _SECONDS)
    found = {
        name: {"milliseconds": times.median(name) * 1e3, "temporary_megabytes": memory[name] / 1e6} for name in runs
    }
    if "dense" in runs:
        for name in runs:
            found[name] |= {"time_over_dense": times.ratio(name, "dense"), "memory_over_dense": memory[name] / memory["dense"]}
    return found, refused


def _staircase(config, length: int):
    """(side -> attention of q, k and v, those arrays), commits and scratchpads evenly spread."""
    trunk, (commits, scratchpads) = config.model.trunk, config_lib.slots(config, length)
    spread = lambda count: (np.arange(count) + 1) * length // max(count, 1) - 1  # noqa: E731
    end_P = spread(commits)
    end_N = np.concatenate([end_P, spread(scratchpads)])
    before = lambda n_N: jnp.asarray(np.searchsorted(end_P, n_N)[None], jnp.int32)  # noqa: E731
    first_BN, commits_BN = before(end_N // _DOCUMENT * _DOCUMENT), before(end_N)
    groups, width = trunk.kv_heads or trunk.heads, trunk.d_model // trunk.heads
    arrays = _random(config, *((1, len(end_N), heads, width) for heads in (trunk.heads, groups, groups)))

    def attend(q, k, v, backend):
        return attention.staircase(q, k, v, first_BN, commits_BN, commits, backend)

    def dense(q, k, v):
        return xla.dense(q, k[:, :commits], v[:, :commits], k, v, first_BN, commits_BN)

    return _sides(attend, dense, 4 * trunk.heads * len(end_N) * commits), arrays


def _window(config, length: int):
    """As `_staircase`, of the encoder's window."""
    heads, reach = config.model.encoder.heads, config.model.encoder.window
    n_BL = jnp.arange(length, dtype=jnp.int32)[None]
    start_BL = n_BL // _DOCUMENT * _DOCUMENT
    arrays = _random(config, *[(1, length, heads, config.model.d_byte // heads)] * 3)

    def attend(q, k, v, backend):
        return attention.window(q, k, v, start_BL, reach, backend)

    def dense(q, k, v):
        return xla.dense(q, k, v, k, v, jnp.maximum(start_BL, n_BL - (reach - 1)), n_BL)

    return _sides(attend, dense, 4 * heads * length * length), arrays


def _sides(attend, dense, logits: int) -> dict:
    sides = {name: functools.partial(attend, backend=name) for name in _BACKENDS}
    return sides | ({"dense": dense} if logits <= _DENSE else {})


def _random(config, *shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), config.training.dtype) for shape in shapes]
