"""Parameters by tier."""

import jax

from scratchpatch.model import weights as weights_lib


def parameters(config) -> dict[str, int]:
    """How many numbers each tier holds, by the model's own shapes: the entropy model's are frozen, the others learned.
    The n-grams' tables are a tier of their own: most of a model's numbers, and next to none of its compute.
    """
    weights = weights_lib.abstract(config)[1]
    trees = weights["params"] | weights.get("frozen", {})
    sizes = {name.replace("_", " "): _size(tree) for name, tree in trees.items()}
    if "ngrams" in trees["encoder"]:
        sizes["n-grams"] = _size(trees["encoder"]["ngrams"])
        sizes["encoder"] -= sizes["n-grams"]
    return sizes


def _size(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
