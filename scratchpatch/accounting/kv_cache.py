"""What the trunk keeps of a row: keys and values of commits, never of scratchpads; or a state, however many commits."""

import jax.numpy as jnp

from scratchpatch import config as config_lib


def kv_bytes_per_byte(config, commits_per_byte: float) -> float:
    """Bytes of keys and values that one byte of text adds to the cache on average, in the config's activation dtype."""
    return _commit_bytes(config) * commits_per_byte


def kv_bytes(config, rows: int) -> int:
    """Bytes that the engine sets aside for what the trunk keeps of rows of the config's window: keys and values of the
    most commits that its budget allows, or states.
    """
    if config.model.trunk.kind == "none":
        return 0
    return rows * (config_lib.slots(config)[0] * _commit_bytes(config) + state_bytes(config))


def state_bytes(config) -> int:
    """Bytes of the states that the trunk keeps of one row, float32; 0 of a trunk that attends, and without one."""
    trunk, s = config.model.trunk, config.model.ssm
    return 4 * trunk.layers * trunk.d_model * s.state * (1 + s.complex) if trunk.kind == "ssm" else 0


def _commit_bytes(config) -> int:
    trunk = config.model.trunk
    if trunk.kind == "ssm":
        return 0
    width = trunk.d_model // trunk.heads * (trunk.kv_heads or trunk.heads)
    return 2 * trunk.layers * width * jnp.dtype(config.training.dtype).itemsize
