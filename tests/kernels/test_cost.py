"""What attention costs, against brute force on short rows, and against what the kernels' own programs walk through."""

import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch.kernels import blocks, cost, pallas_gpu, splash, xla
from scratchpatch.kernels.cost import Shape


def pairs(begin_N, end_N, queries: int, keys: int, size: int) -> int:
    """Pairs of blocks between the first and the last key that some query of the block sees, one by one."""
    count = 0
    for i in range(0, len(end_N), queries):
        seen = [j for b, e in zip(begin_N[i : i + queries], end_N[i : i + queries], strict=True) for j in range(b, e)]
        if seen:
            count += sum(min(seen) < j + keys and j <= max(seen) for j in range(0, size, keys))
    return count


RANGES = {
    "a window": cost.window_ranges(100, 9),
    "a window wider than the row": cost.window_ranges(50, 90),
    "slots": cost.staircase_ranges(24, 60),
    "slots without scratchpads": cost.staircase_ranges(40, 0),
    "documents": (np.array([0, 0, 0, 3, 3, 3, 7, 7]), np.array([0, 1, 2, 3, 4, 6, 7, 9])),
}


@pytest.mark.parametrize("ranges", RANGES)
@pytest.mark.parametrize("queries, keys", [(4, 4), (16, 8), (8, 32)])
def test_visits_are_those_of_brute_force_and_of_the_kernels_steps(ranges, queries, keys):
    begin_N, end_N = RANGES[ranges]
    size = max(len(end_N), int(end_N.max()))
    size += -size % keys
    visits = cost.visits(begin_N, end_N, queries, keys, size)
    assert visits == pairs(begin_N, end_N, queries, keys, size)
    padded = [blocks.pad(jnp.asarray(x)[None], 1, queries) for x in (begin_N, end_N)]
    _, count_BI = blocks.steps(blocks.seen(*padded, queries, keys, size), size // keys)
    assert visits == count_BI.sum()


def test_ranges_are_those_of_one_document_that_fills_the_row():
    begin_N, end_N = cost.window_ranges(6, 3)
    assert [list(range(b, e)) for b, e in zip(begin_N, end_N, strict=True)] == [[], [0], [0, 1], [1, 2], [2, 3], [3, 4]]
    begin_N, end_N = cost.staircase_ranges(4, 8)
    assert not begin_N.any() and end_N.tolist() == [0, 1, 2, 3, 0, 0, 1, 1, 2, 2, 3, 3]


SHAPE = Shape(rows=3, queries=300, keys=130, heads=4, groups=2, width=100)


def test_passes_of_the_gpu_by_hand():
    ranges = cost.staircase_ranges(130, 170)
    passes = cost.gpu(SHAPE, *ranges)
    visits = 3 * 4 * pairs(*ranges, 64, 64, 192)
    assert {x.visits for x in passes.values()} == {visits}
    # 100 channels are padded to 128: 2, 3 and 4 products of [64, 128] and [128, 64] for each pair of blocks.
    assert [x.flops / (2 * 64 * 64 * 128 * visits) for x in passes.values()] == [2, 3, 4]
    forward, _, of_keys = passes.values()
    # Queries are padded to 320: q and the result in bfloat16; begin, end, log-sum-exp; keys and values at each visit.
    assert forward.moved == 3 * 4 * 320 * (2 * 256 + 12) + visits * 64 * 2 * 256
    assert of_keys.moved == 3 * 2 * 192 * 4 * 256 + visits * 64 * (2 * 256 + 16)
    assert forward.exponentials == visits * 64 * 64


@pytest.mark.parametrize("width, registers, held", [(128, (48, 64, 96), 80), (64, (64, 96, 128), 40)])
def test_a_gpus_programs_by_hand(width, registers, held):
    """256 threads for heads of 128, 128 for heads of 64; float32 sums and tiles of logits in their registers."""
    passes = cost.gpu(Shape(1, 64, 64, 1, 1, width), *cost.window_ranges(64, 64))
    assert tuple(x.registers for x in passes.values()) == registers
    assert passes["forward"].held == held * 1024
    assert passes["forward"].threads == 32 * pallas_gpu.warps(width)
    # Shared memory bounds what runs at once, as long as the compiler takes no more registers than must be.
    assert passes["forward"].programs == 227 // held
    by_registers = 65536 // (passes["forward"].threads * registers[2])
    assert passes["gradients of keys"].programs == min(by_registers, 227 // (48 * width // 64))


def test_passes_of_a_tpu_by_hand():
    shape = Shape(rows=2, queries=1024, keys=1024, heads=3, groups=3, width=128, band=513)
    passes = cost.tpu(shape, *cost.window_ranges(1024, 513))
    assert splash.block_size(1024) == 512
    # The first block sees itself, and the second both.
    assert {x.visits for x in passes.values()} == {2 * 3 * 3}
    assert [x.flops / (2 * 512 * 512 * 128 * 18) for x in passes.values()] == [2, 3, 4]
    # q and the result, 256 bytes each; range and log-sum-exp in 128 lanes of 4 bytes; keys and values at each visit.
    assert passes["forward"].moved == 6 * 1024 * (2 * 256 + 2 * 512) + 18 * 512 * 2 * 256
    # Two buffers of 512 queries and keys, sums in float32, two tiles of logits.
    buffers = 2 * 512 * (2 * 256 + 2 * 512 + 2 * 256)
    assert passes["forward"].held == buffers + 512 * (2 * 512 + 512) + 2 * 512 * 512 * 4
    assert max(x.held for x in passes.values()) < 8 << 20


def test_xla_multiplies_its_blocks():
    length, size = 1024, 64
    shape = Shape(rows=2, queries=length, keys=length, heads=3, groups=3, width=32, band=size)
    passes = cost.attention("xla", shape, *cost.window_ranges(length, size))
    logits = 2 * 3 * length * 2 * xla.block_size(size, length)
    assert [x.flops for x in passes.values()] == [2 * 2 * 32 * logits, 4 * 2 * 32 * logits]
    # A logit in float32 and its weight in bfloat16, each written and read.
    assert passes["forward"].moved == 12 * logits
    few = Shape(rows=1, queries=90, keys=30, heads=2, groups=1, width=32)
    assert cost.attention("xla", few, *cost.staircase_ranges(30, 60))["forward"].exponentials == 2 * 90 * 30


def test_a_tiled_staircase_leaves_out_what_no_chunk_sees():
    ranges = cost.staircase_ranges(1024, 1024)
    shape = Shape(rows=1, queries=2048, keys=1024, heads=1, groups=1, width=32)
    forward = cost.attention("xla", shape, *ranges)["forward"]
    assert forward.exponentials == pairs(*ranges, xla.CHUNK, xla.BLOCK, 1024) * xla.CHUNK * xla.BLOCK
    assert forward.exponentials < 0.8 * 2048 * 1024
