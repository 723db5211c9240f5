import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from scratchpatch.kernels import attention, blocked, choice, xla
from scratchpatch.patching import slots
from tests import tiny
from tests.kernels.backends import norm, using, value_and_gradients

B, H, G, K = 2, 4, 2, 4


def dense(q_BNHK, k_BNGK, v_BNGK, see_BNN):
    """Masked softmax over all [N, N], one key-value head after the other."""

    def repeat(x):
        return jnp.repeat(x, q_BNHK.shape[2] // k_BNGK.shape[2], axis=2)

    logits = jnp.einsum("bihk,bjhk->bhij", q_BNHK, repeat(k_BNGK)) * q_BNHK.shape[-1] ** -0.5
    weights = jax.nn.softmax(jnp.where(see_BNN[:, None], logits, -jnp.inf), axis=-1)
    return jnp.einsum("bhij,bjhk->bihk", weights, repeat(v_BNGK))


@dataclasses.dataclass(frozen=True)
class Layout:
    """Slots of a row of several documents and of a row inside one, some slots unused; and who sees whom."""

    built: slots.Slots
    see_BNN: jax.Array
    commits: int

    def attend(self, backend):
        begin_BN, end_BN = self.built.seen_from_BN, self.built.seen_to_BN
        return lambda q, k, v: attention.staircase(q, k, v, begin_BN, end_BN, self.commits, backend)

    def arrays(self, groups: int, width: int = K, dtype=jnp.float32):
        rng, n = np.random.default_rng(groups), self.see_BNN.shape[1]
        shapes = ((B, n, H, width), (B, n, groups, width), (B, n, groups, width), (B, n, H, width))
        return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


def lay_out(length: int, commits: int, scratchpads: int, first: list[int], second: list[int]) -> Layout:
    rng = np.random.default_rng(0)
    tokens_BL = np.stack([tiny.pack(rng, first, length), tiny.pack(rng, second, length, inside=True)])
    kind_BL = rng.choice(3, (B, length), p=(0.5, 0.25, 0.25))
    rows = tiny.rows(tokens_BL)
    start_BL = np.asarray(rows.start_BL)
    masks = jnp.asarray(kind_BL == 1), jnp.asarray(kind_BL == 2)
    built = slots.build(*masks, slots.patch_starts(masks[0], rows), rows, commits, scratchpads)
    end_BN, valid_BN = np.asarray(built.end_BN), np.asarray(built.valid_BN)
    # The rule of slots, by byte positions.
    document_BN = np.take_along_axis(start_BL, end_BN, axis=1)
    see_BNN = (end_BN[:, None] < end_BN[..., None]) & (document_BN[:, None] == document_BN[..., None])
    see_BNN &= valid_BN[:, None] & valid_BN[..., None] & (np.arange(commits + scratchpads) < commits)
    see_BNN |= np.eye(commits + scratchpads, dtype=bool)
    assert 0 < valid_BN.sum() < valid_BN.size
    return Layout(built, jnp.asarray(see_BNN), commits)


@pytest.fixture(scope="module")
def layout():
    return lay_out(40, 14, 13, [9, 3], [25])


@pytest.fixture(scope="module")
def long_layout():
    """Several blocks of queries and of keys for every kernel, some of which nobody sees."""
    return lay_out(700, 190, 180, [200, 0, 320], [30, 450])


def check(layout, backend, groups, tolerance=1e-5, **arrays):
    qkv_weight = layout.arrays(groups, **arrays)
    got = value_and_gradients(layout.attend(backend), backend, *qkv_weight)
    wanted = value_and_gradients(lambda q, k, v: dense(q, k, v, layout.see_BNN), "xla", *qkv_weight)
    for g, w in zip(got, wanted, strict=True):
        np.testing.assert_allclose(g, w, rtol=tolerance, atol=tolerance)


# All at once; in 3 and 27 chunks of slots that meet 4, 3 and 14 blocks of commits, the last of them partly filled
# or not.
BLOCKS = [(4, 512, 128), (1, 512, 128), (2, 9, 4), (1, 13, 5), (4, 1, 1)]


@pytest.mark.parametrize("groups, chunk, block", BLOCKS)
def test_xla_equals_dense_attention_over_all_slots_in_values_and_gradients(layout, monkeypatch, groups, chunk, block):
    monkeypatch.setattr(xla, "CHUNK", chunk)
    monkeypatch.setattr(xla, "BLOCK", block)
    check(layout, "xla", groups)


@pytest.mark.parametrize("backend", ["splash", "pallas", "blocked"])
@pytest.mark.parametrize("groups, width", [(4, 4), (2, 24), (1, 16)])
def test_kernels_equal_dense_attention_in_values_and_gradients(long_layout, backend, groups, width):
    check(long_layout, backend, groups, width=width)


@pytest.mark.parametrize("block, cache", [(8, 1 << 20), (5, 1), (14, 4 * 2 * 14 * 14)])
def test_blocks_of_any_size_and_any_number_of_heads_at_a_time(layout, monkeypatch, block, cache):
    monkeypatch.setattr(blocked, "_BLOCK", block)
    monkeypatch.setattr(blocked, "_CACHE", cache)
    check(layout, "blocked", G)


def test_the_blocks_of_a_long_row_are_few():
    queries, keys = 4000, 3200
    blocks = list(blocked.Kernel(ordered=True)._blocks(queries, keys))
    assert len(blocks) <= 18 and all(seen.stop >= min(block.stop - 1, keys) for block, seen in blocks)
    assert [block.start for block, _ in blocks] == [0, *(block.stop for block, _ in blocks[:-1])]


@pytest.mark.parametrize("backend", ["splash", "pallas", "blocked"])
def test_short_rows_fill_a_part_of_a_block(layout, backend):
    check(layout, backend, G)


@pytest.mark.parametrize("backend", ["xla", "splash", "pallas", "blocked"])
def test_scratchpads_serve_no_slot_but_their_own(layout, backend):
    q, k, v, _ = layout.arrays(G)
    with using(backend):
        run = jax.jit(lambda k, v: layout.attend(backend)(q, k, v))
        p = layout.commits
        got, changed = run(k, v), run(k.at[:, p:].add(9.0), v.at[:, p:].add(9.0))
        assert (got[:, :p] == changed[:, :p]).all()
        only_one = run(k, v.at[:, p + 2].add(9.0))
    assert (jnp.abs(only_one - got).max(axis=(0, 2, 3)) > 0).tolist() == [i == p + 2 for i in range(q.shape[1])]


@pytest.mark.parametrize("backend", ["xla", "splash", "pallas", "blocked"])
def test_commits_that_a_slot_does_not_see_change_no_bit_of_it(long_layout, backend):
    """Not even where other blocks are visited because of them."""
    q, k, v, _ = long_layout.arrays(G)
    p, begin_BN, end_BN = long_layout.commits, long_layout.built.seen_from_BN, long_layout.built.seen_to_BN
    at = 100
    early_BN = (end_BN <= at) & ~((jnp.arange(q.shape[1]) >= at) & (jnp.arange(q.shape[1]) < p))
    run = jax.jit(lambda k, v, c: attention.staircase(q, k, v, begin_BN, c, p, backend))
    with using(backend):
        got = run(k, v, end_BN)
        changed = run(k.at[:, at:p].add(9.0), v.at[:, at:p].add(9.0), jnp.where(early_BN, end_BN, begin_BN))
    assert 100 < early_BN.sum() < early_BN.size - 100
    assert (got == changed)[early_BN].all() and (got != changed)[~early_BN].any()


@pytest.mark.parametrize("backend", ["xla", "splash", "pallas", "blocked"])
def test_logits_far_apart_stay_finite_with_their_gradients(layout, backend):
    q, k, v, weight = layout.arrays(G)
    got = value_and_gradients(layout.attend(backend), backend, 200 * q, k, v, weight)
    wanted = value_and_gradients(lambda q, k, v: dense(q, k, v, layout.see_BNN), "xla", 200 * q, k, v, weight)
    for g, w in zip(got, wanted, strict=True):
        np.testing.assert_allclose(g, w, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("backend, chunk", [("xla", 512), ("xla", 8), ("splash", 512), ("pallas", 512)])
def test_bfloat16_keeps_its_type_and_is_close(layout, monkeypatch, backend, chunk):
    monkeypatch.setattr(xla, "CHUNK", chunk)
    got = value_and_gradients(layout.attend(backend), backend, *layout.arrays(G, dtype=jnp.bfloat16))
    exact = [x.astype(jnp.float32) for x in layout.arrays(G, dtype=jnp.bfloat16)]
    wanted = value_and_gradients(lambda q, k, v: dense(q, k, v, layout.see_BNN), "xla", *exact)
    for g, w in zip(got, wanted, strict=True):
        assert g.dtype == jnp.bfloat16
        np.testing.assert_allclose(g.astype(jnp.float32), w, atol=0.01 * float(jnp.abs(w).max()) + 0.01)


def errors(layout, backend: str, scale: float) -> list[float]:
    """Of bfloat16 values and gradients against float32 ones on the rounded inputs, over their norms.

    scale: of the logits.
    """
    q, k, v, weight = layout.arrays(G, width=32, dtype=jnp.bfloat16)
    rounded = (scale * q).astype(jnp.bfloat16), k, v, weight
    exact = [x.astype(jnp.float32) for x in rounded]
    got = value_and_gradients(layout.attend(backend), backend, *rounded)
    wanted = value_and_gradients(lambda q, k, v: dense(q, k, v, layout.see_BNN), "xla", *exact)
    return [norm(g.astype(jnp.float32) - w) / norm(w) for g, w in zip(got, wanted, strict=True)]


@pytest.mark.parametrize(
    "backend, chunk", [("xla", 512), ("xla", 9), ("splash", 512), ("pallas", 512), ("blocked", 512)]
)
def test_in_bfloat16_logits_of_size_10_and_their_sums_stay_float32(layout, monkeypatch, backend, chunk):
    """A logit or a log-sum-exp of 20, rounded to bfloat16, is off by up to 0.06; its weight by as many parts of 1."""
    monkeypatch.setattr(xla, "CHUNK", chunk)
    value, of_q, of_k, of_v = errors(layout, backend, 10.0)
    # Those of queries and keys are differences of rounded numbers.
    assert max(value, of_v) < 0.005 and max(of_q, of_k) < 0.02


def test_all_at_once_and_in_blocks_xla_rounds_alike(layout, monkeypatch):
    at_once = errors(layout, "xla", 1.0)
    monkeypatch.setattr(xla, "CHUNK", 9)
    monkeypatch.setattr(xla, "BLOCK", 4)
    in_blocks = errors(layout, "xla", 1.0)
    assert at_once[0] == pytest.approx(in_blocks[0], rel=0.1)
    assert at_once == pytest.approx(in_blocks, rel=0.5)


@pytest.mark.parametrize("backend", ["xla", "splash", "pallas", "blocked"])
def test_a_single_slot_without_commits_returns_its_value(backend):
    q, v = np.ones((1, 1, 2, 4), np.float32), np.full((1, 1, 2, 4), 3.0, np.float32)
    zero = np.zeros((1, 1), np.int32)
    run = jax.jit(lambda q, v, zero: attention.staircase(q, q, v, zero, zero, 1, backend))
    with using(backend):
        assert (np.asarray(run(q, v, zero)) == v).all()


def any_ranges(backend):
    """Attention of random ranges by a backend and dense, compiled once for all examples."""
    n, p = 150, 140

    def both(seed, begin_BN, end_BN):
        q, k, v, weight = (
            jax.random.normal(key, (B, n, heads, K))
            for key, heads in zip(jax.random.split(jax.random.key(seed), 4), (2, 1, 1, 2), strict=True)
        )
        j_N = jnp.arange(n)
        see_BNN = (j_N >= begin_BN[..., None]) & (j_N < end_BN[..., None]) & (j_N < p) | jnp.zeros((B, n, n), bool)
        # Its own key counts once more where the range has it.
        own = jnp.broadcast_to(jnp.eye(n, dtype=bool), (B, n, n))

        def twice(q, k, v):
            see, k, v = jnp.concatenate([see_BNN, own], axis=-1), *(jnp.concatenate([x, x], axis=1) for x in (k, v))
            return dense(q, k, v, see)

        def run(attend):
            return jax.value_and_grad(lambda *qkv: (attend(*qkv) * weight).sum(), argnums=(0, 1, 2))(q, k, v)

        return run(lambda *qkv: attention.staircase(*qkv, begin_BN, end_BN, p, backend)), run(twice)

    compiled = jax.jit(both)

    def call(*args):
        with using(backend):
            return compiled(*args)

    return n, p, call, backend


@pytest.fixture(scope="module", params=["splash", "pallas", "blocked"])
def ranges_of(request):
    return any_ranges(request.param)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31 - 1), reach=st.sampled_from([0, 1, 5, 64, 150]))
def test_any_ranges_do(ranges_of, seed, reach):
    """Not only those of slots: in any order, overlapping, empty; blocks take commits in the order of slots alone."""
    n, p, call, backend = ranges_of
    rng = np.random.default_rng(seed)
    begin_BN = rng.integers(0, p + 1, (B, n))
    end_BN = np.minimum(begin_BN + rng.integers(0, reach + 1, (B, n)), p)
    if backend == "blocked":
        end_BN[:, :p] = np.minimum(end_BN[:, :p], np.arange(p))
    got, wanted = call(seed, jnp.asarray(begin_BN, jnp.int32), jnp.asarray(end_BN, jnp.int32))
    for g, w in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(g, w, rtol=2e-4, atol=2e-4)


def test_the_platform_is_part_of_the_key_of_compiled_programs(layout):
    """The same function, traced for a TPU after a CPU, is traced anew."""
    traced = []

    @jax.jit
    def run(x):
        traced.append(choice.current()[0])
        return x

    run(1.0)
    with using("splash"):
        run(1.0)
    run(1.0)
    assert traced == ["cpu", "tpu"]
