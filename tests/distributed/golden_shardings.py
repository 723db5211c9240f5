"""Where every parameter and every activation seam of a model lives on a mesh, as text files under golden/.

    python -m tests.distributed.golden_shardings        write them anew; look at the difference before you commit it
"""

import math
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType

from experiments.blt import small as blt_small
from experiments.scale import byte_1b, sp_1b
from scratchpatch import sharding
from scratchpatch.distributed import mesh
from scratchpatch.model import weights
from tests import tiny

FOLDER = Path(__file__).parent / "golden"

CASES = {
    "tiny-data2-fsdp2-tensor2": (tiny.config, {"data": 2, "fsdp": 2, "tensor": 2}),
    "tiny-slice2-fsdp2-sequence2": (tiny.config, {"slice": 2, "data": 1, "fsdp": 2, "sequence": 2}),
    "sp_1b-data16-fsdp16": (sp_1b.get_config, {"data": 16, "fsdp": 16}),
    "sp_1b-slice2-data4-fsdp16-tensor2-sequence2": (
        sp_1b.get_config,
        {"slice": 2, "data": 4, "fsdp": 16, "tensor": 2, "sequence": 2},
    ),
    "byte_1b-data16-fsdp16": (byte_1b.get_config, {"data": 16, "fsdp": 16}),
    "blt_small-data4-fsdp2": (blt_small.get_config, {"data": 4, "fsdp": 2}),
}


def text(name: str) -> str:
    """One line per array: its name, its shape, the mesh axes of each dimension."""
    make_config, sizes = CASES[name]
    config = make_config().copy_and_resolve_references()
    for axis in mesh.AXES:
        config.mesh[axis] = sizes.get(axis, 1)
    shape = tuple(config.mesh[axis] for axis in mesh.AXES)
    abstract = AbstractMesh(shape, mesh.AXES, axis_types=(AxisType.Auto,) * len(shape))
    definition, arrays = weights.abstract(config)
    placed = weights.named(weights.shardings(config, abstract), "/")
    lines = [f"{path} {_plain(x.shape)} {_spec(placed[path].spec)}" for path, x in weights.named(arrays, "/").items()]

    rows = math.prod(config.mesh[axis] for axis in mesh.ROW_AXES)
    tokens_BL = jax.ShapeDtypeStruct((rows, config.data.window), jnp.int32)
    with jax.sharding.use_abstract_mesh(abstract), sharding.recorded() as seams:
        jax.eval_shape(lambda w, tokens_BL: weights.merge(definition, w)(tokens_BL), arrays, tokens_BL)
    lines += [f"activation {seam} {_spec(spec)}" for seam, spec in sorted(seams.items())]
    return "\n".join(lines) + "\n"


def _plain(shape) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _spec(spec) -> str:
    axes = ((part,) if isinstance(part, str) else part for part in spec)
    return "[" + ", ".join("-" if part is None else "+".join(part) for part in axes) + "]"


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for case in CASES:
        (FOLDER / f"{case}.txt").write_text(text(case))
        print(f"wrote {case}.txt")
