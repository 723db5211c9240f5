"""The hash of n-grams against Python's whole numbers, and the sum over its tables.

Legend: B rows, L byte positions, d byte width.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings, strategies as st

from scratchpatch.model import encoder
from tests import tiny
from tests.model.reference import PRIMES, ngram_row
from tests.patching.reference import spans
from tests.tiny import BOS, PAD

TABLES = (1, 2, 255, 4096, 50_000, 65_536, 500_002, 1_999_993, 2_000_000)


def rows(tokens_BL, n: int, prime: int, table: int) -> np.ndarray:
    return np.asarray(encoder.table_rows(tiny.rows(tokens_BL), n, prime, table))


def wanted(tokens_BL, n: int, prime: int, table: int) -> list[list[int]]:
    """One document after the other, each of them all that there is."""
    return [
        [ngram_row(row[a:b], at, n, prime, table) for a, b in spans(row) for at in range(b - a)]
        for row in np.asarray(tokens_BL).tolist()
    ]


def test_primes_are_those_of_published_weights():
    assert encoder.PRIMES == PRIMES


def test_ids_are_blts():
    assert encoder.blt_ids(tiny.rows([[0, 97, 255, BOS, PAD]])).tolist() == [[4, 101, 259, 1, 0]]


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("n", (2, 3, 8, 16))
def test_rows_equal_whole_numbers(n, table):
    tokens_BL = tiny.batch(seed=n, rows=4, length=150)
    for prime in PRIMES:
        assert rows(tokens_BL, n, prime, table).tolist() == wanted(tokens_BL, n, prime, table)


def test_a_hash_worked_by_hand():
    # "ab" behind BOS: ids 1, 101, 102, the oldest at power 0.
    prime, table = PRIMES[1], 1009
    hashes = [1 * prime, 1 + 101 * prime, 101 + 102 * prime]
    assert rows([[BOS, 97, 98]], 2, prime, table).tolist() == [[h % table for h in hashes]]
    # Eight times "e", id 105: the sum goes far beyond 64 bits, and its low 64 bits stand for a number below zero.
    low = sum(105 * PRIMES[0] ** j for j in range(8)) % 2**64
    assert low >= 2**63
    assert rows([[101] * 8], 8, PRIMES[0], 500_002)[0, 7] == (low - 2**64) % 500_002 != low % 500_002


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    lengths=st.lists(st.integers(0, 12), max_size=8),
    inside=st.booleans(),
    pad=st.integers(0, 9),
    n=st.integers(2, 16),
    prime=st.sampled_from(PRIMES),
    table=st.integers(1, 2_000_000),
)
def test_rows_equal_whole_numbers_of_any_text_and_table(seed, lengths, inside, pad, n, prime, table):
    rng = np.random.default_rng(seed)
    tokens_BL = np.stack([tiny.pack(rng, lengths, 40, inside, pad), rng.integers(0, PAD + 1, 40, np.int32)])
    got = rows(tokens_BL, n, prime, table)
    assert got.dtype == np.uint32
    assert got.tolist() == wanted(tokens_BL, n, prime, table)


def test_an_ngram_reads_its_last_bytes_of_its_own_document_and_no_others():
    rng = np.random.default_rng(0)
    tokens_L = np.concatenate([tiny.pack(rng, [20], 21), tiny.pack(rng, [20], 21)])
    places = np.flatnonzero(tokens_L != BOS)
    # One row for every byte that is another, behind the row that all of them change.
    tokens_BL = np.tile(tokens_L, (1 + len(places), 1))
    tokens_BL[1 + np.arange(len(places)), places] = (tokens_L[places] + 1) % 256
    for n in (2, 5):
        base_L, *others_BL = rows(tokens_BL, n, PRIMES[0], 1_999_993)
        for at, other_L in zip(places, others_BL, strict=True):
            end = 21 if at < 21 else 42
            assert np.flatnonzero(other_L != base_L).tolist() == list(range(at, min(at + n, end)))


def test_embeddings_add_up_over_tables_by_function_then_size():
    config = tiny.config(
        {"model.encoder.ngrams": (5, 2), "model.encoder.ngram_rows": 30, "model.encoder.ngram_functions": 3}
    )
    module = encoder.NGrams(config, nnx.Rngs(params=0))
    table = np.asarray(module.embedding.embedding.get_value())
    assert table.shape == (6 * 30, 16)
    tokens_BL = jnp.asarray(tiny.batch())
    got_BLd = jax.jit(module)(tiny.rows(tokens_BL))
    kinds = [(n, prime) for prime in PRIMES[:3] for n in (5, 2)]
    total_BLd = sum(
        table[30 * k : 30 * (k + 1)].astype(np.float64)[np.array(wanted(tokens_BL, n, prime, 30))]
        for k, (n, prime) in enumerate(kinds)
    )
    np.testing.assert_allclose(got_BLd, total_BLd, rtol=1e-5, atol=1e-6)
