"""Models with random weights, and those that lie somewhere: of a run, an exported folder or a Hugging Face checkpoint.

Weights are found before they are read, so that each device reads its own share alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from scratchpatch import config as config_lib
from scratchpatch.checkpoints import workdir as workdir_lib
from scratchpatch.checkpoints.reader import TRIES, CheckpointReader
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.distributed import processes
from scratchpatch.errors import UserError
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.interop import hf_blt
from scratchpatch.interop.export import Exported
from scratchpatch.model import finite
from scratchpatch.model import weights as weights_lib


@dataclasses.dataclass
class Trained:
    """The weights of a checkpoint, or of an exported folder.

    config: of the model. abstract: the weights as jax.ShapeDtypeStructs. step: optimizer steps behind the weights; where
      they are a checkpoint's that was removed before `read` had it, those behind the newer one that it gave instead.
    read: gives arrays in place of the leaves of some of the top-level keys of `abstract`, each where the leaf's sharding
      says, so that a device reads its share alone; a leaf without one goes to the first device of this process. Of several
      processes all must ask. Raises UserError in all of them, also where a number is not finite (see `finite`).
    """

    config: Any
    step: int
    abstract: dict[str, Any]
    read: Callable[[dict[str, Any]], dict[str, Any]]


def find(folder: str | Path, step: int | None = None) -> Trained:
    """The newest whole checkpoint of a run, or that of `step`; or an exported model.

    Of several processes the first one chooses and proves the checkpoint; all of them must ask.

    Raises:
      UserError: no run and no exported model, no checkpoint, none that is whole, or a step of an exported model.
    """
    if processes.first(lambda: any(Path(folder).glob("*.safetensors"))):
        if step is not None:
            raise UserError(f"{folder} is an exported model: it has no other steps, leave step out")
        exported = processes.together(lambda: Exported(folder))
        processes.first(exported.prove)
        read = lambda part: finite.checked(processes.together(lambda: exported.read(part)), str(folder))  # noqa: E731
        return Trained(exported.config, exported.step, exported.abstract, read)
    config = processes.together(lambda: workdir_lib.load_config(folder))
    _, abstract = weights_lib.abstract(config)
    reader = CheckpointReader(Path(folder) / "checkpoints", config)
    chosen = processes.first(lambda: reader.whole(step, abstract))

    def read(part: dict[str, Any]) -> dict[str, Any]:
        for _ in range(TRIES):
            try:
                state = processes.together(lambda: reader.read(found.step, part).state)
            except UserError:
                # Another process may have met it.
                if step is not None or not processes.first(lambda: reader.removed(found.step)):
                    raise
                found.step = processes.first(lambda: reader.whole(None, abstract))
            else:
                return finite.checked(state, f"{folder}, step {found.step}")
        raise reader.outrun()

    found = Trained(config, chosen, abstract, read)
    return found


def init(config, seed: int = 0) -> LanguageModel:
    """A model with random weights.

    Raises:
      UserError: a config or seed that cannot be.
    """
    config_lib.check(config)
    config_lib.check_seed(seed)
    return LanguageModel(config, weights_lib.random(config, seed))


def load(workdir: str | Path, step: int | None = None, devices: int = 1) -> LanguageModel:
    """The model of a run's checkpoint: the newest good one, or that of `step`; or of an exported folder.

    A run that is at work there may go on: where it removes a checkpoint while it is read, the next newer one is read.

    Args:
      devices: that the weights are spread over; each reads its share.
    Raises:
      UserError: no run, no checkpoint, none that is whole, weights that the devices cannot share, or that are not finite.
    """
    source = find(workdir, step)
    abstract = source.abstract
    if devices > 1:
        placed = weights_lib.shardings(source.config, mesh_lib.over(source.config, devices))
        abstract = jax.tree.map(lambda x, sharding: x.update(sharding=sharding), abstract, placed)
    # It may come from a newer step than was found: the step is known afterwards.
    weights = source.read(abstract)
    return LanguageModel(source.config, weights, source.step)


def load_hf_blt(folder: str | Path, window: int = 1024, max_patch_bytes: int = 128) -> LanguageModel:
    """The model of a Hugging Face BLT checkpoint folder, its patcher included: see `interop.hf_blt.read`."""
    return LanguageModel(*hf_blt.read(folder, window, max_patch_bytes))
