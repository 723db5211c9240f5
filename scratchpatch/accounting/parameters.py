"""Parameters by tier."""

from __future__ import annotations

import jax

from scratchpatch.model import weights as weights_lib

_TIERS = {"encoder": "encoder", "entropy_head": "entropy head", "pooling": "pooling", "trunk": "trunk", "decoder": "decoder"}


def parameters(config) -> dict[str, int]:
    """How many numbers each tier learns, from the model's own shapes."""
    params = weights_lib.abstract(config)[1]["params"]
    return {_TIERS[name]: sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in params.items()}
