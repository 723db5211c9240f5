"""A state's arrays on disk: all that touches orbax.

Arrays are named by the paths of their leaves, such as 'params.trunk.kernel', and stored apart by their top-level keys.
"""

from __future__ import annotations

import logging as standard_logging
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import NamedSharding, PartitionSpec

try:
    from orbax.checkpoint import v1 as ocp
except ImportError:
    from orbax.checkpoint.experimental import v1 as ocp

_OWN_FOLDER = re.compile(r"(?:ocdbt\.)?process_(\d+)")
_CONTEXT = ocp.Context()
# A folder that cannot be made in the background leaves threads of orbax that hold up the exit for five minutes.
_CONTEXT.async_options.create_directories_asynchronously = False
# The most bytes of a chunk: whoever reads a slice of an array reads whole chunks. Orbax cuts axes into equal pieces, so
# an axis with a prime factor larger than _PRIME would fall into crumbs, and such an array stays whole.
_CHUNK_BYTES, _PRIME = 1 << 24, 256


def _storage(_: Any, array: Any) -> Any:
    """How an array is cut into chunks on disk; None: into one for each share that a device has."""
    shape = array.sharding.shard_shape(array.shape) if isinstance(array, jax.Array) else array.shape
    if any(_largest_prime(length) > _PRIME for length in shape):
        return None
    return ocp.options.ArrayOptions.Saving.StorageOptions(chunk_byte_size=_CHUNK_BYTES)


def _largest_prime(number: int) -> int:
    """The largest prime factor of a number; 1 for 0 and 1."""
    factor = 2
    while factor * factor <= number:
        if number % factor:
            factor += 1
        else:
            number //= factor
    return max(number, 1)


_CONTEXT.array_options.saving.scoped_storage_options_creator = _storage


def _is_wanted(record: standard_logging.LogRecord) -> bool:
    # Orbax logs fifty lines per save at the level of this package's own lines, and the traceback of an exception that
    # it also raises.
    return "orbax" not in record.pathname or (record.levelno >= standard_logging.WARNING and not record.exc_info)


logging.get_absl_logger().addFilter(_is_wanted)
# Orbax drops its coroutines where writing fails; the failure itself is raised.
warnings.filterwarnings("ignore", "coroutine '.*' was never awaited", RuntimeWarning)
# Where a read fails, so do the reads that have begun beside it, whose results nobody asks for any more.
_BESIDE = ("orbax", "tensorstore", "TensorStore", "Event loop is closed")
standard_logging.getLogger("asyncio").addFilter(lambda record: not any(name in record.getMessage() for name in _BESIDE))
_usual_hook = sys.unraisablehook


def _report(unraisable: Any) -> None:
    if not any(name in f"{unraisable.exc_value} {unraisable.object!r}" for name in _BESIDE):
        _usual_hook(unraisable)


sys.unraisablehook = _report


def save(path: Path, arrays: dict[str, Any]):
    """Copy arrays by name to the host, then write them in the background; `result()` of what is returned waits."""
    with _CONTEXT:
        return ocp.save_checkpointables_async(path, _grouped(arrays))


def load(path: Path, targets: dict[str, jax.ShapeDtypeStruct]) -> list[jax.Array]:
    """The arrays of these names, each where its sharding says; without one on the first device of this process."""
    values = ocp.load_checkpointables(path, _grouped({name: _with_sharding(leaf) for name, leaf in targets.items()}))
    return [values[top_key(name)][name] for name in targets]


def writing_process(name: str) -> int:
    """The process that wrote a file of a step: the one that orbax has named in the path, or else the first one."""
    own = next((match for part in name.split("/") if (match := _OWN_FOLDER.fullmatch(part))), None)
    return int(own[1]) if own else 0


def by_path(state: dict[str, Any]) -> dict[str, Any]:
    """Path, such as 'params.trunk.kernel', to leaf, in the order of jax.tree.leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    named = {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}
    if len(named) != len(leaves):
        raise ValueError("two leaves of the state have the same path: use keys without dots")
    return named


def shape_and_dtype(array: Any) -> dict[str, Any]:
    return {"shape": list(array.shape), "dtype": str(array.dtype)}


def top_key(name: str) -> str:
    """The top-level key of a path."""
    return name.split(".", 1)[0]


def replicated_target(described: dict[str, Any], beside: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """A target of the described shape and dtype, whole on every device that the target `beside` lies on."""
    mesh = getattr(beside.sharding, "mesh", None)
    sharding = NamedSharding(mesh, PartitionSpec()) if mesh is not None else beside.sharding
    return jax.ShapeDtypeStruct(described["shape"], described["dtype"], sharding=sharding)


def zeros(leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """An array of zeros, where the sharding of the leaf says."""
    whole = np.zeros(leaf.shape, leaf.dtype)
    return jax.make_array_from_callback(leaf.shape, _with_sharding(leaf).sharding, lambda index: whole[index])


def _grouped(arrays: dict[str, Any]) -> dict[str, dict[str, Any]]:
    groups: dict[str, dict[str, Any]] = {top_key(name): {} for name in arrays}
    for name, leaf in arrays.items():
        groups[top_key(name)][name] = leaf
    return groups


def _with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
