"""Parameters by tier."""

from __future__ import annotations

import jax

from scratchpatch.model import weights as weights_lib

_TIERS = {"entropy_head": "entropy head", "entropy_model": "entropy model"}


def parameters(config) -> dict[str, int]:
    """How many numbers each tier holds, from the model's own shapes: the entropy model's are frozen, the others learned.

    The n-grams' tables are a tier of their own: most of a model's numbers, and next to none of its compute.
    """
    weights = weights_lib.abstract(config)[1]
    trees = weights["params"] | weights.get("frozen", {})
    found = {_TIERS.get(name, name): sum(leaf.size for leaf in jax.tree.leaves(tree)) for name, tree in trees.items()}
    if "ngrams" in trees["encoder"]:
        found["n-grams"] = sum(leaf.size for leaf in jax.tree.leaves(trees["encoder"]["ngrams"]))
        found["encoder"] -= found["n-grams"]
    return found
