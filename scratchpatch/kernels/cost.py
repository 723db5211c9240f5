"""What attention costs each backend, by arithmetic: the numbers that a measurement on a chip has to meet.

Each backend has a function from shapes and ranges to its passes. A pass is one kernel, or what XLA does for a forward
or a backward pass, over all rows and heads of a device. Matrix products count as they run, masked keys of a visited
block included.

Legend: N queries of a row, K head width, I blocks of queries, J blocks of keys.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from scratchpatch.kernels import blocks, pallas_gpu, splash, xla

# What one multiprocessor of sm_90 has (CUDA's tables of compute capabilities): registers, bytes of shared memory that
# programs may have, threads.
_REGISTERS, _SHARED, _THREADS = 65536, 227 * 1024, 2048
# Splash keeps a number of each query, such as its log-sum-exp, in so many equal lanes.
_LANES = 128


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of one attention on one device. queries, keys: of a row. groups: key-value heads. width: of a head. item: bytes
    of a number. band: see `splash.Kernel`.
    """

    rows: int
    queries: int
    keys: int
    heads: int
    groups: int
    width: int
    item: int = 2
    band: int | None = None


@dataclasses.dataclass(frozen=True)
class Pass:
    """One kernel's work. visits: pairs of blocks that are multiplied, over rows and heads (XLA: 0). flops: of its
    matrix products. exponentials: of its softmax. moved: bytes that programs ask of main memory and send there; a GPU's
    cache may serve some of them. held: bytes that a program holds on the chip, buffers for the next block included: in
    shared memory, or in VMEM. threads: of a program of a GPU, and registers: the least that each has for what a program
    keeps in them, both 0 elsewhere.
    """

    visits: int
    flops: float
    exponentials: float
    moved: float
    held: int = 0
    threads: int = 0
    registers: int = 0

    @property
    def programs(self) -> int:
        """The most programs that a multiprocessor of sm_90 runs at once; with more registers it runs fewer."""
        return min(_REGISTERS // (self.threads * self.registers), _SHARED // self.held, _THREADS // self.threads)


def staircase_ranges(commits: int, scratchpads: int) -> tuple[np.ndarray, np.ndarray]:
    """(begin, end), int32 [N], of the slots of one document that fills a row: its commits, then its scratchpads, evenly
    spread.
    """
    inside = np.arange(scratchpads) * commits // max(scratchpads, 1)
    end_N = np.concatenate([np.arange(commits), inside]).astype(np.int32)
    return np.zeros_like(end_N), end_N


def window_ranges(length: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(begin, end), int32 [N], of the bytes of one document that fills a row, but for the byte itself."""
    n_N = np.arange(length, dtype=np.int32)
    return np.maximum(n_N - (size - 1), 0), n_N


def visits(begin_N: np.ndarray, end_N: np.ndarray, queries: int, keys: int, size: int) -> int:
    """Pairs of a block of queries and one of keys that a kernel visits for one row and head. size: keys of a row."""
    begin_BN, end_BN = (blocks.pad(jnp.asarray(x)[None], 1, queries) for x in (begin_N, end_N))
    return int(blocks.seen(begin_BN, end_BN, queries, keys, size + -size % keys).sum())


def attention(backend: str, shape: Shape, begin_N: np.ndarray, end_N: np.ndarray) -> dict[str, Pass]:
    """The passes of a backend of TPUs and GPUs, 'forward' first; every row has these ranges. With a band: a window."""
    return {"splash": tpu, "pallas": gpu, "xla": in_xla}[backend](shape, begin_N, end_N)


def tpu(shape: Shape, begin_N: np.ndarray, end_N: np.ndarray) -> dict[str, Pass]:
    """`splash.Kernel`: what a grid's outer axis names is fetched once, the other side at each visit; nothing caches
    it.
    """
    bq, bk = splash.block_size(shape.queries), splash.block_size(shape.keys)
    seen = visits(begin_N, end_N, bq, bk, shape.keys) * shape.rows * shape.heads
    queries, keys = (shape.rows * shape.heads * (n + -n % b) for n, b in ((shape.queries, bq), (shape.keys, bk)))
    state, lanes, tile = shape.width * shape.item, _LANES * 4, bq * bk * 4

    def one(products: int, moved: float, of_query: int, of_key: int, sums: int) -> Pass:
        # Two buffers of each block; sums in float32; the tiles of logits and of their weights.
        held = 2 * (bq * of_query + bk * of_key) + sums + 2 * tile
        return Pass(seen, products * 2 * bq * bk * shape.width * seen, bq * bk * seen, moved, held)

    # Ranges are as wide as the lanes, and so is the log-sum-exp that the forward pass writes.
    fixed = 2 * state + 2 * lanes
    by_query = 3 * state + lanes + 8
    return {
        "forward": one(
            2, queries * fixed + seen * bk * 2 * state, fixed, 2 * state, bq * (2 * lanes + shape.width * 4)
        ),
        "gradient of queries": one(
            3, queries * by_query + seen * bk * 2 * state, by_query, 2 * state, bq * shape.width * 4
        ),
        # Queries are fetched at each visit; k, v and their gradients once.
        "gradients of keys": one(
            4, keys * 4 * state + seen * bq * (2 * state + 12), 2 * state + 12, 4 * state, 2 * bk * shape.width * 4
        ),
    }


def gpu(shape: Shape, begin_N: np.ndarray, end_N: np.ndarray) -> dict[str, Pass]:
    """`pallas_gpu.Kernel`. Visits load from the cache where the keys of a row are still there."""
    size, width = pallas_gpu.BLOCK, pallas_gpu.padded(shape.width)
    seen = visits(begin_N, end_N, size, size, shape.keys) * shape.rows * shape.heads
    queries = shape.rows * shape.heads * (shape.queries + -shape.queries % size)
    keys = shape.rows * shape.groups * (shape.keys + -shape.keys % size)
    state, threads = width * shape.item, 32 * pallas_gpu.warps(width)

    def one(products: int, moved: float, states: int, fetched: int, sums: int, tiles: int) -> Pass:
        # Operands of products lie in shared memory, those that a visit fetches in as many copies as there are stages.
        held = size * state * (states + pallas_gpu.STAGES * fetched)
        registers = -(-(sums * size * width + tiles * size * size) // threads)
        return Pass(seen, products * 2 * size**2 * width * seen, size**2 * seen, moved, held, threads, registers)

    return {
        "forward": one(2, queries * (2 * state + 12) + seen * size * 2 * state, 1, 2, 1, 1),
        "gradient of queries": one(3, queries * (3 * state + 16) + seen * size * 2 * state, 2, 2, 1, 2),
        "gradients of keys": one(4, keys * 4 * state + seen * size * (2 * state + 16), 2, 2, 2, 2),
    }


def in_xla(shape: Shape, begin_N: np.ndarray, end_N: np.ndarray) -> dict[str, Pass]:
    """`xla.window` or `xla.staircase`: logits are written and read in float32, their weights in the type of v."""
    if shape.band is not None:
        size = xla.block_size(shape.band, shape.queries)
        queries = shape.queries + -shape.queries % size
        logits, backward = queries * (size if queries == size else 2 * size), 4
    elif shape.queries <= xla.CHUNK:
        logits, backward = shape.queries * shape.keys, 4
    else:
        chunk = -(-shape.queries // -(-shape.queries // xla.CHUNK))
        # The backward pass computes logits again.
        logits, backward = visits(begin_N, end_N, chunk, xla.BLOCK, shape.keys) * chunk * xla.BLOCK, 5
    logits *= shape.rows * shape.heads

    def one(products: int, times: int) -> Pass:
        return Pass(0, products * 2 * shape.width * logits, logits, times * logits * (8 + 2 * shape.item))

    return {"forward": one(2, 1), "backward": one(backward, 2)}
