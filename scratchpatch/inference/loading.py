"""Models with random weights, and models of a run's checkpoint, an exported folder or a Hugging Face checkpoint.

Weights are found before they are read, so that each device reads its own share alone.
"""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from scratchpatch import config as config_lib
from scratchpatch.checkpoints import workdir as workdir_lib
from scratchpatch.checkpoints.reader import TRIES, CheckpointReader
from scratchpatch.data import tokenizer
from scratchpatch.distributed import mesh as mesh_lib, processes
from scratchpatch.errors import UserError
from scratchpatch.inference.language_model import LanguageModel
from scratchpatch.interop import hf_blt
from scratchpatch.interop.export import Exported
from scratchpatch.model import weights as weights_lib


@dataclasses.dataclass
class Trained:
    """The weights of a checkpoint, or of an exported folder.

    config: of the model.
    step: optimizer steps behind the weights. Where the checkpoint was removed before `read` had it, `read` takes a
      newer one, and this becomes its step.
    abstract: the weights as jax.ShapeDtypeStructs.
    read: returns arrays in place of the leaves of some of the top-level keys of `abstract`, each where the leaf's
      sharding says, so that a device reads its share alone; a leaf without a sharding goes to the first device of this
      process. Every process must call it. Raises UserError in all of them, also where a number is not finite (see
      `finite`).
    """

    config: Any
    step: int
    abstract: dict[str, Any]
    read: Callable[[dict[str, Any]], dict[str, Any]]


def find(folder: str | Path, step: int | None = None) -> Trained:
    """The newest whole checkpoint of a run, or that of `step`; or an exported model.

    Every process must call it; the first one chooses and proves the checkpoint.

    Raises:
      UserError: no run and no exported model, no checkpoint, none that is whole, or a step of an exported model.
    """
    if processes.first(lambda: any(Path(folder).glob("*.safetensors"))):
        if step is not None:
            raise UserError(f"{folder} is an exported model: it has no other steps, leave step out")
        exported = processes.together(lambda: Exported(folder))
        processes.first(exported.prove)

        def read_exported(part: dict[str, Any]) -> dict[str, Any]:
            return weights_lib.finite(processes.together(lambda: exported.read(part)), str(folder))

        return Trained(exported.config, exported.step, exported.abstract, read_exported)
    config = processes.together(lambda: workdir_lib.load_config(folder))
    _, abstract = weights_lib.abstract(config)
    reader = CheckpointReader(Path(folder) / "checkpoints", config)

    def read_checkpoint(part: dict[str, Any]) -> dict[str, Any]:
        for _ in range(TRIES):
            try:
                state = processes.together(lambda: reader.read(trained.step, part).state)
            except UserError:
                # The checkpoint may be gone for another process alone.
                if step is not None or not processes.first(lambda: reader.removed(trained.step)):
                    raise
                trained.step = processes.first(lambda: reader.whole(None, abstract))
            else:
                return weights_lib.finite(state, f"{folder}, step {trained.step}")
        raise reader.outrun()

    trained = Trained(config, processes.first(lambda: reader.whole(step, abstract)), abstract, read_checkpoint)
    return trained


def init(config, seed: int = 0) -> LanguageModel:
    """A model with random weights. Raises UserError for a config or a seed that cannot be."""
    config_lib.check(config)
    config_lib.check_seed(seed)
    return LanguageModel(config, weights_lib.random(config, seed) | tokenizer.spelling(config))


def load(
    workdir: str | Path, step: int | None = None, devices: int | None = None, mesh: Mapping[str, int] | None = None
) -> LanguageModel:
    """The model of a run's checkpoint, the newest whole one or that of `step`; or of an exported folder.

    A run that is at work there may go on: where it removes a checkpoint while it is read, the next newer one is read.
    The weights are spread over so many devices, or over the axes of a mesh, each of which reads its share: see
    `distributed.mesh.over`. Several processes spread them over the devices of all, and all must call this.

    Raises:
      UserError: no run, no checkpoint, none that is whole; weights that are not finite, or that devices cannot share.
    """
    trained = find(workdir, step)
    abstract = trained.abstract
    if (over := mesh_lib.over(trained.config, devices, mesh)) is not None:
        placed = weights_lib.shardings(trained.config, over)
        abstract = jax.tree.map(lambda x, sharding: x.update(sharding=sharding), abstract, placed)
    # The weights may come from a newer step than was found, so the step is known afterwards.
    weights = trained.read(abstract)
    return LanguageModel(trained.config, weights, trained.step)


def load_hf_blt(folder: str | Path, window: int = 1024, max_patch_bytes: int = 128) -> LanguageModel:
    """The model of a Hugging Face BLT checkpoint folder, its patcher included: see `interop.hf_blt.read`."""
    return LanguageModel(*hf_blt.read(folder, window, max_patch_bytes))
