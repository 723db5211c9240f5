"""What a byte costs at inference with patches of 4, 6 and 8 bytes and the same parameters.

    .venv/bin/python -m experiments.blt.compute [--seconds=60] [--json=FILE]

Analytic FLOPs per byte of the published sizes and of a small model, beside
what XLA counts in the program that it is given, and for the small one the bytes
per second of its forward pass on this machine. The claim (arXiv 2412.09871) is
that cost goes down as 1/p; the local layers, which run at every byte, set a floor.
"""

import argparse
import json

import jax
import jax.numpy as jnp

from experiments.blt import published
from scratchpatch import compilation_cache, config as config_lib, timing
from scratchpatch.accounting import flops
from scratchpatch.model import stack, weights as weights_lib

MODELS = ("8B", "1B", "small")
SIZES = (4, 6, 8)
# Whole patches of each size.
_WINDOW, _ROWS = 1536, 2


def small(patch_bytes: int):
    """The 1B model's shape cut down to 8M parameters, trunk-heavy as the 8B one."""
    config = published.get_config(f"1b-{patch_bytes}")
    config.data.window = _WINDOW
    config.training.dtype = "float32"
    config.model.d_byte = 64
    config.model.encoder.heads = 4
    config.model.encoder.window = 64
    config.model.encoder.ngram_rows = 1000
    config.model.entropy_model.layers = 0
    config.model.pooling.heads = 4
    config.model.pooling.queries = 4
    config.model.trunk.layers = 8
    config.model.trunk.d_model = 256
    config.model.trunk.heads = 8
    config.model.decoder.layers = 3
    config.model.decoder.heads = 4
    config.model.decoder.window = 64
    config.model.decoder.context_vectors = 4
    config.patching.max_patch_bytes = patch_bytes
    return config


def config_of(name: str, patch_bytes: int):
    config = small(patch_bytes) if name == "small" else published.get_config(f"{name.lower()}-{patch_bytes}")
    config.data.window = _WINDOW
    return config


def rows() -> dict[str, list[dict]]:
    """Per model and patch size: FLOPs per byte of trunk and of all, analytic and XLA's."""
    return {name: [row(config_of(name, p), p) for p in SIZES] for name in MODELS}


def row(config, patch_bytes: int) -> dict:
    tiers = flops.inference(config, 1 / patch_bytes, 0.0, _WINDOW)
    program = flops.compiled(config, _WINDOW)
    if "entropy model" not in tiers:
        program.pop("entropy model", None)
    return {
        "patch_bytes": patch_bytes,
        "trunk": tiers["trunk"],
        "total": sum(tiers.values()),
        "program": sum(program.values()),
        "xla": counted(config),
    }


def counted(config) -> float:
    """FLOPs per byte that XLA counts in the forward pass as it is lowered."""
    # XLA counts a loop's body once, and the blocks of a CPU are computed in loops.
    in_xla = {"kernels.staircase": "xla", "kernels.window": "xla"}
    definition, weights = weights_lib.abstract(config_lib.from_flat(config_lib.flat(config) | in_xla))
    tokens_1L = jax.ShapeDtypeStruct((1, _WINDOW), jnp.int32)
    with stack.unrolled():
        lowered = jax.jit(lambda w, t: weights_lib.merge(definition, w)(t).logits_BLV).lower(weights, tokens_1L)
    return lowered.cost_analysis()["flops"] / _WINDOW


def bytes_per_second(seconds: float) -> dict[int, float]:
    """Of the small model's forward pass, sizes in turns."""
    tokens_BL = jnp.asarray(jax.random.randint(jax.random.key(0), (_ROWS, _WINDOW), 0, 256))

    def call(patch_bytes: int):
        config = small(patch_bytes)
        definition, _ = weights_lib.abstract(config)
        weights = weights_lib.random(config, 0)
        forward = jax.jit(lambda w, t: weights_lib.merge(definition, w)(t).logits_BLV)
        return lambda: forward(weights, tokens_BL).block_until_ready()

    times = timing.take_turns({str(p): call(p) for p in SIZES}, seconds)
    return {p: _ROWS * _WINDOW / times.median(str(p)) for p in SIZES}


def table(rows_by_model: dict[str, list[dict]], speed: dict[int, float]) -> str:
    """The costs as Markdown. speed: bytes per second of the small model, by bytes per patch."""
    lines = [
        "| model | bytes per patch | MFLOPs/byte, useful | of these trunk | in the program, by our count | by XLA's "
        "| relative to p=4 | 4/p | bytes/s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, of_model in rows_by_model.items():
        for cost in of_model:
            p, relative = cost["patch_bytes"], cost["total"] / of_model[0]["total"]
            measured = f"{speed[p]:,.0f} ({speed[p] / speed[4]:.2f}x)" if name == "small" else ""
            lines.append(
                f"| {name} | {p} | {cost['total'] / 1e6:.4g} | {cost['trunk'] / cost['total']:.0%} "
                f"| {cost['program'] / 1e6:.4g} | {cost['xla'] / 1e6:.4g} | {relative:.2f} | {4 / p:.2f} "
                f"| {measured} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="time to measure speeds for")
    parser.add_argument("--json", help="also write the numbers to this file")
    arguments = parser.parse_args()
    compilation_cache.enable()
    costs, speed = rows(), bytes_per_second(arguments.seconds)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"rows": costs, "bytes_per_second": speed}, file, indent=1)
    print(table(costs, speed))


if __name__ == "__main__":
    main()
