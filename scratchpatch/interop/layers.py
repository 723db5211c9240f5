"""Layers in one array per parameter, as the model has them, or in an array each, as most other programs do.

    stacked      params.trunk.stack.block.ffn.up.kernel      [layers, in, out]
    unstacked    params.trunk.stack.block.3.ffn.up.kernel    [in, out]
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

import numpy as np

from scratchpatch.errors import UserError

# `model.stack.Stack` keeps its layers under this name; a layer may have a part called block of its own.
_STACKED = re.compile(r"(.*?\bstack\.block)\.(?!\d+\.)(.+)")
_LAYER = re.compile(r"(.*?\bstack\.block)\.(\d+)\.(.+)")


def unstacked(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every array of a stack, cut into its layers; the others as they are."""
    found = {}
    for name, array in arrays.items():
        if match := _STACKED.fullmatch(name):
            found |= {f"{match[1]}.{i}.{match[2]}": layer for i, layer in enumerate(array)}
        else:
            found[name] = array
    return found


def stacks(names: Iterable[str]) -> dict[str, list[str]]:
    """The stacked names of some arrays of either layout, each with the names that it is made of, layer by layer.

    A name that is no layer's, stacked arrays among them, is made of itself.

    Raises:
      UserError: a layer between two others is missing.
    """
    layers: dict[str, dict[int, str]] = {}
    found: dict[str, list[str]] = {}
    for name in names:
        if match := _LAYER.fullmatch(name):
            layers.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = name
        else:
            found[name] = [name]
    for name, by_layer in layers.items():
        missing = sorted(set(range(max(by_layer) + 1)) - set(by_layer))
        if missing or name in found:
            what = f"lacks layer {missing[0]}" if missing else "is there stacked and layer by layer"
            raise UserError(f"array {name} {what}: export the model anew")
        found[name] = [by_layer[i] for i in sorted(by_layer)]
    return found
