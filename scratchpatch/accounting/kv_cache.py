"""The trunk's KV cache: commits keep keys and values, scratchpads never do."""

import jax.numpy as jnp


def kv_bytes_per_byte(config, commits_per_byte: float) -> float:
    """Bytes of keys and values that one byte of text adds to the cache on average, in the config's activation dtype."""
    trunk = config.model.trunk
    width = trunk.d_model // trunk.heads * (trunk.kv_heads or trunk.heads)
    return 2 * trunk.layers * width * jnp.dtype(config.training.dtype).itemsize * commits_per_byte
