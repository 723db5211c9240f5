"""Which backend computes an attention: by platform, shape and type, or as the config says.

The platform is that of the mesh in whose context a function is traced, so that a step that is compiled for TPUs on a
machine without one takes their kernels.
"""

import contextlib
import dataclasses
import functools
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from absl import logging

from scratchpatch import sharding
from scratchpatch.errors import UserError
from scratchpatch.kernels import blocked, ranges

# Platform of each kernel, as JAX names it.
_HOME = {"splash": "tpu", "pallas": "gpu", "blocked": "cpu"}
# Rows of at most so many slots (on a CPU, whose blocks have no padding), windows of at most so many bytes: their logits
# are small, and a kernel's blocks would be mostly padding.
_FEW_SLOTS, _FEW_SLOTS_ON_CPU, _SMALL_WINDOW = 512, 256, 128

# (platform, interpret) or None; part of the key of JAX's caches.
_context = jax.make_user_context(None)


@dataclasses.dataclass(frozen=True)
class Choice:
    """A backend, why, and whether its kernel is interpreted rather than compiled."""

    backend: str
    reason: str
    interpret: bool = False

    def kernel(self, band: int | None = None, ordered: bool = False) -> ranges.Kernel | None:
        """The kernel for `ranges.attend`; None: XLA needs none. band, ordered: see `blocked.Kernel`."""
        if self.backend == "xla":
            return None
        if self.backend == "blocked":
            return blocked.Kernel(band, ordered)
        return _module(self.backend).Kernel(band, self.interpret)


def _module(backend: str):
    """The module of a kernel, imported where it runs alone: importing Pallas takes seconds."""
    if backend == "blocked":
        return blocked
    if backend == "splash":
        from scratchpatch.kernels import splash as module
    else:
        from scratchpatch.kernels import pallas_gpu as module
    return module


@contextlib.contextmanager
def platform(name: str, interpret: bool = False) -> Iterator[None]:
    """Trace for platform 'cpu', 'gpu' or 'tpu' inside, whatever the mesh or the machine.

    interpret: run its kernels on the CPU, slowly, as tests do.
    """
    with _context((name, interpret)):
        yield


def current() -> tuple[str, bool]:
    """(platform that is traced for, whether kernels are interpreted)."""
    if _context.value is not None:
        return _context.value
    mesh = jax.sharding.get_abstract_mesh()
    return mesh.abstract_device.platform if mesh.abstract_device else jax.default_backend(), False


def traced_platform() -> str:
    """cpu, gpu or tpu: what is traced for."""
    return current()[0]


def staircase(wanted: str, q_BNHK, k_BPGK) -> Choice:
    """The backend of the trunk's attention. Raises UserError where `wanted`, by kernels.staircase, cannot run here.

    q_BNHK, k_BPGK: queries and the commits' keys, or what has their shape and dtype.
    """
    slots = q_BNHK.shape[1]
    few = _FEW_SLOTS_ON_CPU if traced_platform() == "cpu" else _FEW_SLOTS
    small = f"{slots} slots are few" if slots <= few else ""
    return _choose("staircase", wanted, _Shape.of(q_BNHK, k_BPGK, None, sharding.TRUNK), small)


def window(wanted: str, q_BLHK, window: int) -> Choice:
    """The backend of the byte tiers' attention. Raises UserError where `wanted`, by kernels.window, cannot run here.

    q_BLHK: array, or what has its shape and dtype. window: bytes that one sees.
    """
    small = f"a window of {window} bytes is small" if min(window, q_BLHK.shape[1]) <= _SMALL_WINDOW else ""
    return _choose("window", wanted, _Shape.of(q_BLHK, q_BLHK, window, sharding.BYTE_TIER), small)


@dataclasses.dataclass(frozen=True)
class _Shape:
    """What a choice depends on.

    Attributes:
      rows: of one device.
      divided: why heads or rows cannot be spread over the mesh, or ''.
    """

    rows: int
    queries: int
    heads: int
    width: int
    keys: int
    band: int | None
    dtype: str
    divided: str

    @staticmethod
    def of(q, k, band, axes: sharding.Axes):
        mesh, divided = sharding.spread_mesh(), ""
        rows, queries, heads, width = q.shape
        if mesh is not None:
            try:
                sharding.spec((axes.rows, None, axes.heads, None), k.shape, mesh, "keys and values")
                rows //= math.prod(mesh.shape.get(axis, 1) for axis in sharding.TABLE[axes.rows])
            except UserError as error:
                divided = str(error)
        return _Shape(rows, queries, heads, width, k.shape[1], band, jnp.dtype(q.dtype).name, divided)


def _choose(kernel: str, wanted: str, shape: _Shape, small: str) -> Choice:
    where, interpret = current()
    if wanted == "auto":
        backend, reason = _automatic(where, shape, small)
    else:
        backend, reason = wanted, "as the config says"
        problem = _problem(backend, where, shape)
        if problem:
            raise UserError(f"kernels.{kernel} = {backend!r} {problem}: set it to 'auto' or 'xla'")
    _say(kernel, shape, backend, reason)
    return Choice(backend, reason, interpret)


def _automatic(where: str, shape: _Shape, small: str) -> tuple[str, str]:
    backend = next((name for name, home in _HOME.items() if home == where), None)
    if backend is None:
        return "xla", where
    problem = _problem(backend, where, shape)
    against = f"{backend} {problem}" if problem else small
    if not against and backend == "pallas" and shape.dtype == "float32":
        against = "pallas spills registers in float32"
    return ("xla", f"{where}; {against}") if against else (backend, where)


def _problem(backend: str, where: str, shape: _Shape) -> str:
    """Why a backend cannot run, to follow its name; '' if it can."""
    if backend == "xla":
        return ""
    if where != _HOME[backend]:
        return f"needs a {_HOME[backend].upper()}, and this runs on {where}"
    if shape.divided:
        return f"cannot be spread over the mesh ({shape.divided})"
    return _module(backend).problem(shape.rows, shape.queries, shape.width, shape.keys, shape.band)


@functools.cache
def _say(kernel: str, shape: _Shape, backend: str, reason: str) -> None:
    """Once for each kernel and shape."""
    queries = f"{shape.rows} x {shape.queries} queries, {shape.heads} heads of {shape.width}, {shape.dtype}"
    logging.info("%s: %s (%s), %s", kernel, backend, reason, queries)
