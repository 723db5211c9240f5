"""What tells two entropy models apart."""

from __future__ import annotations

import hashlib
import json

import jax
import numpy as np
from jax.experimental import multihost_utils

from scratchpatch import config as config_lib


def of(config, frozen) -> str:
    """Checksum of an entropy model, its weights and the config that runs it; the same on every mesh.

    Args:
      config: of the model that decides by the entropies.
      frozen: the part of that model's weights which holds the entropy model.
    """
    fields = config_lib.flat(config_lib.entropy_model(config))
    kept = {k: v for k, v in fields.items() if k.startswith("model.") or k in ("data.window", "training.dtype")}
    found = hashlib.blake2b(json.dumps(kept, sort_keys=True).encode(), digest_size=12)
    for path, array in jax.tree_util.tree_leaves_with_path(frozen):
        found.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        found.update(np.ascontiguousarray(_whole(array)))
    return found.hexdigest()


def _whole(array) -> np.ndarray:
    """On this host, even where other processes hold parts of it."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)
