"""Each backend of the attention kernels that runs here, side by side, against dense logits where they fit.

Legend: B rows, L byte positions, N slots or positions, P commits.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from scratchpatch import config as config_lib, config_fields, timing
from scratchpatch.bench.results import Result
from scratchpatch.errors import UserError
from scratchpatch.kernels import attention, xla

_BACKENDS = tuple(name for name in config_fields.BACKENDS if name != "auto")
_WINDOWS, _DOCUMENT, _SECONDS = (2048, 8192), 3000, 6.0
# Bytes of float32 logits that a dense reference may take; its gradient needs several times as much.
_DENSE = 1 << 28


def measure(config) -> Result:
    """Time and memory of value and gradient, for one row of the config's trunk and of its encoder."""
    numbers, notes = {}, {}
    for length in _WINDOWS:
        for name, make in (("staircase", _staircase), ("window", _window)):
            measured, refusals = _side_by_side(*make(config, length))
            for side, values in measured.items():
                numbers.setdefault(side, {}).update({f"{name}_{length}_{key}": value for key, value in values.items()})
            notes |= dict.fromkeys(f"not measured: {why}" for why in refusals)
    title = f"attention of one row, value and gradient, documents of {_DOCUMENT} bytes"
    return Result(title, numbers, notes=tuple(notes))


def _side_by_side(sides: dict, arrays) -> tuple[dict, list[str]]:
    """(side -> measures, why others do not run)."""
    calls, memory, refusals = {}, {}, []
    for name, attend in sides.items():

        def total(*qkv, attend=attend):
            return attend(*qkv).astype(jnp.float32).sum()

        try:
            compiled = jax.jit(jax.value_and_grad(total, (0, 1, 2))).lower(*arrays).compile()
        except UserError as error:
            refusals.append(str(error))
            continue
        memory[name] = compiled.memory_analysis().temp_size_in_bytes
        calls[name] = lambda compiled=compiled: jax.block_until_ready(compiled(*arrays))
    times = timing.take_turns(calls, _SECONDS)
    measured = {}
    for name in calls:
        measured[name] = {"milliseconds": times.median(name) * 1e3, "temporary_megabytes": memory[name] / 1e6}
        if "dense" in calls:
            measured[name]["time_over_dense"] = times.ratio(name, "dense")
            measured[name]["memory_over_dense"] = memory[name] / memory["dense"]
    return measured, refusals


def _staircase(config, length: int):
    """(side -> attention of q, k and v, those arrays), commits and scratchpads evenly spread."""
    trunk, (commits, scratchpads) = config.model.trunk, config_lib.slots(config, length)
    end_P, scratchpad_S = ((np.arange(n) + 1) * length // max(n, 1) - 1 for n in (commits, scratchpads))
    end_N = np.concatenate([end_P, scratchpad_S])
    begins = end_N // _DOCUMENT * _DOCUMENT
    first_BN, commits_BN = (jnp.asarray(np.searchsorted(end_P, n_N)[None], jnp.int32) for n_N in (begins, end_N))
    groups, width = trunk.kv_heads or trunk.heads, trunk.d_model // trunk.heads
    arrays = _random(config, *((1, len(end_N), heads, width) for heads in (trunk.heads, groups, groups)))

    def attend(q, k, v, backend):
        return attention.staircase(q, k, v, first_BN, commits_BN, commits, backend)

    def dense(q, k, v):
        return xla.dense(q, k[:, :commits], v[:, :commits], k, v, first_BN, commits_BN)

    return _sides(attend, dense, 4 * trunk.heads * len(end_N) * commits), arrays


def _window(config, length: int):
    """As `_staircase`, of the encoder's window."""
    heads, window = config.model.encoder.heads, config.model.encoder.window
    n_BL = jnp.arange(length, dtype=jnp.int32)[None]
    start_BL = n_BL // _DOCUMENT * _DOCUMENT
    arrays = _random(config, *[(1, length, heads, config.model.d_byte // heads)] * 3)

    def attend(q, k, v, backend):
        return attention.window(q, k, v, start_BL, window, backend)

    def dense(q, k, v):
        return xla.dense(q, k, v, k, v, jnp.maximum(start_BL, n_BL - (window - 1)), n_BL)

    return _sides(attend, dense, 4 * heads * length * length), arrays


def _sides(attend, dense, logits: int) -> dict:
    sides = {name: functools.partial(attend, backend=name) for name in _BACKENDS}
    return sides | ({"dense": dense} if logits <= _DENSE else {})


def _random(config, *shapes):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), config.training.dtype) for shape in shapes]
