"""Entropies along a stream, what triggers read beside them, and nothing else that the model could compute.

The windows are those of `LanguageModel.positions`. Legend: R rows, L positions of a row.
"""

import dataclasses
import functools
import operator
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from scratchpatch import config as config_lib
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.inference import windows
from scratchpatch.model import weights as weights_lib
from scratchpatch.patching.scores import Signals

# Tokens of one call on one device.
_TOKENS_PER_CALL = 8192


@dataclasses.dataclass(frozen=True)
class Answers:
    """The entropies of some windows of a stream.

    Attributes:
      windows: what each row reads, and the positions that it answers for.
      tokens_RL: int32, PAD beyond the stream's end.
      signals: what decisions read of each position, arrays [R, L, ...]; of no meaning at PAD.
    """

    windows: list[windows.Window]
    tokens_RL: np.ndarray
    signals: Signals

    def answered(self) -> np.ndarray:
        """float32 [positions]: the entropies that these windows answer for, in order."""
        rows = zip(self.signals.entropy_BL, self.windows, strict=True)
        return np.concatenate([row_L[w.first - w.start :][: w.count] for row_L, w in rows])


@functools.lru_cache(maxsize=16)
def _compile(definition, mesh):
    # Whatever the entropies do not need, the compiler leaves out.
    def run(weights, tokens_RL):
        output = weights_lib.merge(definition, weights)(tokens_RL)
        return Signals(output.entropy_BL, output.benefit_BLM, output.layout.boundary_BL)

    return mesh_lib.inside(mesh, jax.jit(run, out_shardings=mesh_lib.everywhere(mesh)))


class Entropies:
    """Entropies of a model's entropy model, of its head or, without a trunk, its own.

    Weights that are spread over a mesh stay where they are: its devices share the rows, and all its processes must ask
    the same. Others are copied to all devices of this process, which share the rows.
    """

    def __init__(self, config, weights):
        self.length, self._pad = config.data.window, config_lib.vocabulary(config).pad
        if mesh := mesh_lib.of(weights):
            config, shares = mesh_lib.settled(config, mesh), mesh_lib.row_shares(mesh)
            self._weights, self._rows = weights, mesh_lib.everywhere(mesh)
        else:
            devices = jax.local_devices()
            copies, shares = jax.make_mesh((len(devices),), ("rows",), (AxisType.Auto,), devices=devices), len(devices)
            self._weights = jax.device_put(weights, NamedSharding(copies, PartitionSpec()))
            self._rows = NamedSharding(copies, PartitionSpec("rows"))
        self._run = _compile(weights_lib.abstract(config)[0], mesh)
        self._batch = max(_TOKENS_PER_CALL // self.length, 1) * shares

    def along(self, stream, chosen: Sequence[int]) -> Iterator[Answers]:
        """The entropies of the chosen windows (see `windows.window`) of a stream, some at a time, in order."""
        for i in range(0, len(chosen), self._batch):
            plan = [windows.window(k, len(stream), self.length) for k in chosen[i : i + self._batch]]
            tokens_RL = np.stack([stream.read(w.start, self.length) for w in plan])
            padded_RL = np.pad(tokens_RL, ((0, self._batch - len(plan)), (0, 0)), constant_values=self._pad)
            signals = jax.device_get(self._run(self._weights, jax.device_put(padded_RL, self._rows)))
            real = slice(len(plan))
            yield Answers(plan, tokens_RL, jax.tree.map(operator.itemgetter(real), signals))
