"""What decoding does for one byte of each row, compiled for a TPU pod on a machine without one.

Two programs, since the trunk runs for some bytes alone: `bytes` reads a byte of each row, puts what the trunk said of
it into the cache and chooses the next one; `trunk` is what the trunk says of all rows. libtpu runs in a child process.

    python -m scratchpatch.planning.decode_programs CONFIG.json TOPOLOGY SLICES ROWS RESULT.json
"""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np

from scratchpatch import config_file, sharding
from scratchpatch.distributed import mesh as mesh_lib
from scratchpatch.inference import decoding, sampling
from scratchpatch.inference.decoding import Board
from scratchpatch.model import weights as weights_lib
from scratchpatch.planning import ahead_of_time, hlo, hlo_traffic


def compile_programs(config, devices, rows: int) -> tuple[dict, dict]:
    """(name to compiled program, what the arguments of all of them hold on a device: group to bytes).

    Groups are `parameters`, `trunk_cache`, `rings` of the byte tiers, and `board`, which is the rest.
    """
    mesh = mesh_lib.make(config, devices)
    form = decoding.form(weights_lib.without_thresholds(mesh_lib.settled(config, mesh)))

    def compiled(function, *arguments, donated=()):
        with jax.set_mesh(mesh):
            return jax.jit(function, donate_argnums=donated).lower(*arguments).compile()

    def placed(shapes, shardings):
        def place(sharding, of_one):
            return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), of_one)

        return jax.tree.map(place, shardings, shapes)

    def empty(parameters) -> Board:
        return decoding.empty_board(form.steps(parameters), rows)

    def read_and_write(parameters, board: Board, thought):
        model = form.steps(parameters)
        cache, reading = model.read(board.cache, board.token_B[:, None])
        if thought is not None:
            cache = model.settle(cache, reading, thought, reading.slot_BC[:, 0])
        cache, logits_B1V = model.write(cache, reading)
        token_B, nats_B = sampling.choose(logits_B1V[:, 0], board.settings, board.chosen)
        chosen = sampling.advance(board.chosen, token_B, ~board.waiting_B)
        board = dataclasses.replace(board, cache=cache, token_B=token_B, reading=reading, chosen=chosen)
        return board.spread(), nats_B

    def think(parameters, cache, reading):
        return form.steps(parameters).think(cache, reading)

    parameters = placed(form.abstract, sharding.state_shardings(form.abstract, mesh))
    with jax.set_mesh(mesh):
        shapes = jax.eval_shape(empty, parameters)
    board = placed(shapes, compiled(empty, parameters).output_shardings)
    made, thought = {}, None
    if config.model.trunk.kind != "none":
        arguments = parameters, board.cache, board.reading
        made["trunk"] = compiled(think, *arguments)
        with jax.set_mesh(mesh):
            thought = placed(jax.eval_shape(think, *arguments), made["trunk"].output_shardings)
    made["bytes"] = compiled(read_and_write, parameters, board, thought, donated=(1,))
    groups = {
        "parameters": parameters,
        "trunk_cache": board.cache.trunk,
        "rings": (board.cache.encoder, board.cache.head, board.cache.decoder, board.cache.entropy_model),
    }
    held = {name: _bytes_here(tree) for name, tree in groups.items()}
    return made, held | {"board": _bytes_here((parameters, board)) - sum(held.values())}


def _bytes_here(tree) -> int:
    """Bytes of arrays on one device."""
    return sum(
        int(np.prod(x.sharding.shard_shape(x.shape), dtype=np.int64)) * x.dtype.itemsize for x in jax.tree.leaves(tree)
    )


def cost(program, mesh: dict[str, int]) -> dict:
    """What XLA says of a compiled program, per device: traffic (bytes of main memory, as
    `hlo_traffic`), flops, temporaries (bytes), and the bytes that collectives send, as `hlo.totals`.
    """
    text = program.as_text()
    return {
        "traffic": hlo_traffic.traffic(text),
        "flops": float(program.cost_analysis()["flops"]),
        "temporaries": int(program.memory_analysis().temp_size_in_bytes),
        "collectives": hlo.totals(hlo.collectives(text, mesh)),
    }


def main(config_path: str, name: str, slices: str, rows: str, result: str) -> None:
    """The child: compile, and write what a plan reads."""
    config = config_file.read(config_path)
    jax.config.update("jax_enable_compilation_cache", False)
    devices = ahead_of_time.devices(name, int(slices))
    programs, held = compile_programs(config, devices, int(rows))
    mesh = mesh_lib.sizes(config, len(devices))
    costs = {name: cost(program, mesh) for name, program in programs.items()}
    Path(result).write_text(json.dumps({"held": held, "programs": costs}))


if __name__ == "__main__":
    main(*sys.argv[1:])
