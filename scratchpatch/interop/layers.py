"""Layers in one array per parameter, as the model has them, or in an array each, as most other programs do.

    stacked      params.trunk.stack.block.ffn.up.kernel      [layers, in, out]
    unstacked    params.trunk.stack.block.3.ffn.up.kernel    [in, out]
"""

import re
from collections.abc import Iterable, Mapping

import numpy as np

from scratchpatch.errors import UserError
from scratchpatch.interop.safetensors_folder import printable

# `model.stack.Stack` keeps its layers under this name; a layer may have a part called block of its own.
_STACKED = re.compile(r"(.*?\bstack\.block)\.(?!\d+\.)(.+)")
# A number has one spelling, or one of two arrays would be lost.
_LAYER = re.compile(r"(.*?\bstack\.block)\.(0|[1-9][0-9]{0,8})\.(.+)")


def unstacked(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every array of a stack, cut into its layers; the others as they are."""
    cut = {}
    for name, array in arrays.items():
        if match := _STACKED.fullmatch(name):
            cut |= {f"{match[1]}.{i}.{match[2]}": layer for i, layer in enumerate(array)}
        else:
            cut[name] = array
    return cut


def sources(names: Iterable[str]) -> dict[str, list[str]]:
    """The stacked names of some arrays of either layout, each with the names of its layers in order, or its own alone.

    Raises:
      UserError: a layer between two others is missing.
    """
    layers: dict[str, dict[int, str]] = {}
    names_of: dict[str, list[str]] = {}
    for name in names:
        if match := _LAYER.fullmatch(name):
            layers.setdefault(f"{match[1]}.{match[3]}", {})[int(match[2])] = name
        else:
            names_of[name] = [name]
    for name, by_layer in layers.items():
        missing = next((i for i in range(len(by_layer)) if i not in by_layer), None)
        if missing is not None or name in names_of:
            what = "is there stacked and layer by layer" if missing is None else f"lacks layer {missing}"
            raise UserError(f"array {printable(name)} {what}: export the model anew")
        names_of[name] = [by_layer[i] for i in sorted(by_layer)]
    return names_of
