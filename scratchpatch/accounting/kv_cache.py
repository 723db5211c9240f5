"""The trunk's KV cache: commits keep keys and values, scratchpads never do."""

import jax.numpy as jnp

from scratchpatch import config as config_lib


def kv_bytes_per_byte(config, commits_per_byte: float) -> float:
    """Bytes of keys and values that one byte of text adds to the cache on average, in the config's activation dtype."""
    return _commit_bytes(config) * commits_per_byte


def kv_bytes(config, rows: int) -> int:
    """Bytes of keys and values that the engine sets aside for rows of the config's window: for the most commits that
    its budget allows.
    """
    return 0 if config.model.trunk.kind == "none" else rows * config_lib.slots(config)[0] * _commit_bytes(config)


def _commit_bytes(config) -> int:
    trunk = config.model.trunk
    width = trunk.d_model // trunk.heads * (trunk.kv_heads or trunk.heads)
    return 2 * trunk.layers * width * jnp.dtype(config.training.dtype).itemsize
