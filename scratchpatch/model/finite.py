"""Weights that a model can compute with: no NaN among them, and nothing infinite but a threshold."""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp

from scratchpatch import compilation_cache
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.errors import UserError
from scratchpatch.model import weights as weights_lib

_SHOWN = 3


def checked(weights: dict[str, Any], where: str) -> dict[str, Any]:
    """The weights (see `model.weights`), or some of their parts, as they are. Of several processes all must ask.

    An infinite threshold stays: it is one that every entropy, or none, exceeds.

    Args:
      where: they come from, for the message.
    Raises:
      UserError: numbers that are not finite; names the arrays.
    """
    named = weights_lib.named(weights, ".")
    if not named:
        return weights
    mesh = mesh_lib.of(weights)
    with jax.set_mesh(mesh) if mesh is not None else contextlib.nullcontext():
        good = jax.device_get(_compiled(mesh)(weights))
    bad = [name for name, fine in zip(named, good, strict=True) if not fine]
    if bad:
        names = ", ".join(bad[:_SHOWN]) + (f" and {len(bad) - _SHOWN} more arrays" if bad[_SHOWN:] else "")
        raise UserError(
            f"the weights of {where} hold NaN or infinite numbers, in {names}: use those of another step, or train anew"
        )
    return weights


@functools.lru_cache
def _compiled(mesh):
    """Whether each array is fine, in the order of jax.tree.leaves: bool [arrays]."""

    def fine(weights):
        return jnp.stack(
            [
                (~jnp.isnan(x) if part == "thresholds" else jnp.isfinite(x)).all()
                for part in sorted(weights)
                for x in jax.tree.leaves(weights[part])
            ]
        )

    return jax.jit(fine, out_shardings=mesh_lib.everywhere(mesh), compiler_options=compilation_cache.quick())
