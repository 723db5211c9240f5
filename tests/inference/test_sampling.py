"""Choosing bytes: the distribution against plain numpy, draws against the distribution, rows alone and together.

Legend: T steps, B rows, V rows of the vocabulary.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, strategies

from scratchpatch.errors import UserError
from scratchpatch.inference import sampling, utf8
from scratchpatch.inference.options import Options
from scratchpatch.vocabulary import BYTES

BOS, V = BYTES.bos, BYTES.rows
# So many rows stand in a batch wherever the number does not matter, so that few programs are compiled.
B = 4

advance = jax.jit(sampling.advance)
choose = jax.jit(sampling.choose)
distribution = jax.jit(sampling.distribution)


def logits(seed: int, rows: int = B, scale: float = 3.0) -> np.ndarray:
    """Random raw logits, masked beyond BOS as the model's head masks them."""
    logits_BV = np.random.default_rng(seed).normal(scale=scale, size=(rows, V)).astype(np.float32)
    logits_BV[:, BOS + 1 :] = -1e30
    return logits_BV


def log_softmax(x_V: np.ndarray) -> np.ndarray:
    x_V = x_V.astype(np.float64) - x_V.max()
    return x_V - np.log(np.exp(x_V).sum())


def reference(logits_V: np.ndarray, options: Options, prompt: bytes = b"", written: int = 0) -> np.ndarray:
    """The distribution of one row, float64 [V]; `assume` leaves out what rounding decides."""
    x_V = logits_V.astype(np.float32).copy()
    seen = sorted(set(prompt))
    penalty = np.float32(options.repetition_penalty)
    x_V[seen] = np.where(x_V[seen] > 0, x_V[seen] / penalty, x_V[seen] * penalty)
    candidates = np.arange(V) <= BOS
    if options.valid_utf8:
        left = min(options.max_bytes - written, utf8.ENOUGH)
        candidates &= utf8.ALLOWED_RSV[left, utf8.state_after(prompt)]
    x_V = np.where(candidates, x_V, -np.inf)
    x_V = x_V - x_V.max()
    if options.temperature == 0:
        return (np.arange(V) == np.argmax(x_V)).astype(np.float64)
    p_V = np.exp((x_V / np.float32(options.temperature)).astype(np.float64))
    if options.top_k:
        p_V[p_V < np.sort(p_V)[::-1][min(options.top_k, V) - 1]] = 0
    if options.top_p < 1:
        likelier_V = (p_V > p_V[:, None]) @ p_V / p_V.sum()
        assume((np.abs(likelier_V - options.top_p) > 5e-5).all())
        p_V[likelier_V >= options.top_p] = 0
    if options.min_p:
        assume((np.abs(p_V / options.min_p - 1) > 1e-5).all())
        p_V[p_V < options.min_p] = 0
    return p_V / p_V.sum()


def row_options() -> strategies.SearchStrategy[Options]:
    return strategies.builds(
        Options,
        max_bytes=strategies.integers(1, 5),
        temperature=strategies.sampled_from([0.0, 0.1, 0.7, 1.0, 1.3, 5.0]),
        top_k=strategies.sampled_from([0, 1, 2, 3, 40, 256, 100000]),
        top_p=strategies.sampled_from([1.0, 0.95, 0.5, 0.11, 1e-6]),
        min_p=strategies.sampled_from([0.0, 0.01, 0.21, 0.97]),
        repetition_penalty=strategies.sampled_from([1.0, 1.3, 0.6]),
        valid_utf8=strategies.booleans(),
    )


@given(
    strategies.lists(row_options(), min_size=B, max_size=B),
    strategies.lists(strategies.binary(max_size=6), min_size=B, max_size=B),
    strategies.integers(0, 1000),
    # On a coarse grid many candidates tie.
    strategies.sampled_from([None, 0.25, 2.0]),
)
def test_the_distribution_equals_plain_numpy(options, prompts, seed, grid):
    logits_BV = logits(seed)
    if grid:
        logits_BV[:, : BOS + 1] = np.round(logits_BV[:, : BOS + 1] / grid) * grid
    rows = zip(logits_BV, options, prompts, strict=True)
    expected_BV = [reference(logits_V, o, prompt) for logits_V, o, prompt in rows]
    settings, state = sampling.settings(options), sampling.initial(prompts)
    p_BV = np.asarray(distribution(logits_BV, settings, state))
    np.testing.assert_allclose(p_BV, expected_BV, rtol=1e-4, atol=1e-9)
    token_B, log_probability_B = choose(logits_BV, settings, state)
    assert (p_BV[np.arange(B), token_B] > 0).all()
    own_BV = np.stack([log_softmax(logits_V) for logits_V in logits_BV])
    np.testing.assert_allclose(log_probability_B, own_BV[np.arange(B), token_B], atol=1e-5)


def test_greedy_takes_the_lowest_of_those_that_tie():
    logits_BV = np.zeros((B, V), np.float32)
    logits_BV[1, [7, 200, BOS]] = 3
    logits_BV[2, [BOS, 255]] = 5
    logits_BV[3, BOS] = 1
    token_B, _ = choose(logits_BV, sampling.settings([Options()] * B), sampling.initial([b""] * B))
    np.testing.assert_array_equal(token_B, [0, 7, 255, BOS])


def test_the_penalty_spares_bos_and_unseen_bytes():
    logits_BV = np.where(np.arange(V) % 2, 4.0, -4.0).astype(np.float32)[None].repeat(B, 0)
    options = [Options(temperature=1.0, repetition_penalty=2.0)] * B
    state = sampling.initial([b"", b"\x00", b"\x01", b"\x00\x01"])
    # Rows whose state has seen BOS, as after the end of a document.
    state = dataclasses.replace(state, seen_BV=state.seen_BV | (np.arange(V) == BOS))
    p_BV = np.asarray(distribution(logits_BV, sampling.settings(options), state))[:, : BOS + 1]
    relative_BV = np.log(p_BV / p_BV[:, 3:4])
    np.testing.assert_allclose(relative_BV[:, 0], [-8, -12, -8, -12], rtol=1e-5)
    np.testing.assert_allclose(relative_BV[:, 1], [0, 0, -2, -2], atol=1e-5)
    np.testing.assert_allclose(relative_BV[:, BOS], -8, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        Options(temperature=1.0),
        Options(temperature=0.5, top_k=5),
        Options(temperature=2.0, top_p=0.8),
        Options(temperature=1.0, min_p=0.1, repetition_penalty=1.5, valid_utf8=True),
    ],
)
@pytest.mark.parametrize("along", ("seeds", "bytes"))
def test_draws_have_the_distribution(options, along):
    draws = 4096
    logits_BV, n_B = logits(3, 1).repeat(draws, 0), np.arange(draws)
    options = [dataclasses.replace(options, seed=int(n) if along == "seeds" else 5) for n in n_B]
    state = sampling.initial([b"abc"] * draws)
    if along == "bytes":
        state = dataclasses.replace(state, written_B=n_B.astype(np.int32))
        options = [dataclasses.replace(o, max_bytes=draws + 4) for o in options]
    settings = sampling.settings(options)
    p_V = np.asarray(distribution(logits_BV, settings, state)[0], np.float64)
    count_V = np.bincount(np.asarray(choose(logits_BV, settings, state)[0]), minlength=V)
    assert not count_V[p_V == 0].any()
    often_V = p_V * draws >= 5
    expected = np.append(p_V[often_V], p_V[~often_V].sum() + 1e-12)
    observed = np.append(count_V[often_V], count_V[~often_V].sum())
    assert scipy.stats.chisquare(observed, expected / expected.sum() * draws).pvalue > 1e-3


MIXED = [
    Options(),
    Options(temperature=1.0, seed=1),
    Options(temperature=0.8, top_p=0.9, seed=2**63 - 1),
    Options(temperature=1.2, top_k=7, repetition_penalty=1.3, seed=2**40),
    Options(temperature=1.0, min_p=0.05, seed=1, valid_utf8=True, max_bytes=9),
    Options(repetition_penalty=1.7, valid_utf8=True),
    Options(temperature=5.0, top_p=0.99, top_k=100, seed=7),
]
# One for each of MIXED.
PROMPTS = [b"", b"abc", b"\xf0\x9f", b"\xff\xc3", b"\xe2\x82", b"abab", bytes(range(256))]
STEPS = 12


@jax.jit
def _run(logits_TBV, settings, state):
    def step(state, logits_BV):
        token_B, log_probability_B = sampling.choose(logits_BV, settings, state)
        return sampling.advance(state, token_B, token_B < BOS), (token_B, log_probability_B)

    return jax.lax.scan(step, jax.tree.map(jnp.asarray, state), logits_TBV)[1]


def outputs(which: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """Tokens [rows, T] and log-probabilities of some rows of MIXED, computed in one batch."""
    logits_BTV = np.stack([logits(100 + b, STEPS) for b in which])
    logits_BTV[:, :, BOS] -= 10
    settings = sampling.settings([MIXED[b] for b in which])
    return tuple(
        np.asarray(x).T
        for x in _run(logits_BTV.swapaxes(0, 1), settings, sampling.initial([PROMPTS[b] for b in which]))
    )


def test_a_row_is_the_same_alone_and_in_any_batch_and_place():
    everyone = list(range(len(MIXED)))
    token_BT, log_probability_BT = outputs(everyone)
    batches = [*([b] for b in everyone), everyone[::-1], [3, 3, 1], [everyone[k % 7] for k in range(64)]]
    for which in batches:
        other_BT, other_log_probability_BT = outputs(which)
        np.testing.assert_array_equal(other_BT, token_BT[which])
        np.testing.assert_array_equal(other_log_probability_BT, log_probability_BT[which])


def test_noise_is_that_of_jaxs_keys_and_reads_both_halves_of_the_seed():
    seeds = [0, 7, 2**32 - 1, 2**32, 2**32 + 7, 2**62, 2**63 - 1]
    settings = sampling.settings([Options(seed=seed) for seed in seeds])
    state = dataclasses.replace(sampling.initial([b""] * len(seeds)), written_B=np.full(len(seeds), 3, np.int32))
    noise_BV = np.asarray(sampling._noise(settings, state))
    for seed, noise_V in list(zip(seeds, noise_BV, strict=True))[:3]:
        expected_V = jax.random.gumbel(jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), 3), (V,))
        np.testing.assert_array_equal(noise_V, expected_V)
    assert len(np.unique(noise_BV[:, 0])) == len(seeds)


def test_noise_changes_with_every_byte():
    settings, state = sampling.settings([Options()] * B), sampling.initial([b""] * B)
    state = dataclasses.replace(state, written_B=np.arange(B, dtype=np.int32))
    assert len(np.unique(sampling._noise(settings, state)[:, 0])) == B


@pytest.mark.parametrize("temperature", (0.0, 1.0, 4.0))
def test_output_of_valid_utf8_decodes(temperature):
    rows, prompts = 64, [b"", "é".encode()[:1], "😀".encode()[:1], "€".encode()[:2], b"ab"]
    # Whatever the logits want, and often the leads of long characters.
    logits_TBV = np.stack([logits(t, rows) for t in range(STEPS)])
    logits_TBV[:, :, 0xE0:0xF8] += 3
    prompts = [prompts[b % len(prompts)] for b in range(rows)]
    sizes = [b % STEPS for b in range(rows)]
    options = [
        Options(max_bytes=size, temperature=temperature, top_p=0.9, seed=b, valid_utf8=True)
        for b, size in enumerate(sizes)
    ]
    token_TB, _ = _run(logits_TBV, sampling.settings(options), sampling.initial(prompts))
    for prompt, size, token_T in zip(prompts, sizes, np.asarray(token_TB).T, strict=True):
        token_T = token_T[:size]
        output = bytes(token_T[: np.argmax(np.append(token_T, BOS) == BOS)].tolist())
        if size >= utf8.NEEDED_S[utf8.state_after(prompt)]:
            (prompt + output).decode()
        else:
            assert output == b""


def test_advance_counts_bytes_of_active_rows():
    state = sampling.initial([b"a", b"a", b"a", b""])
    token_B, active_B = np.array([0xC3, 0xC3, BOS, 0x61], np.int32), np.array([True, False, True, True])
    state = advance(state, token_B, active_B)
    np.testing.assert_array_equal(state.written_B, [1, 0, 0, 1])
    np.testing.assert_array_equal(state.utf8_B, [utf8.state_after(b"\xc3"), utf8.ACCEPT, utf8.ACCEPT, utf8.ACCEPT])
    seen = [set(np.flatnonzero(seen_V).tolist()) for seen_V in state.seen_BV]
    assert seen == [{0x61, 0xC3}, {0x61}, {0x61, BOS}, {0x61}]


@pytest.mark.parametrize(
    "extreme",
    (
        {"temperature": 1e-300},
        {"temperature": 1e-40},
        {"temperature": 2e-38},
        {"temperature": 1e300},
        {"temperature": 10**100},
        {"temperature": 1.0, "repetition_penalty": 1e300},
        {"temperature": 1.0, "repetition_penalty": 1e-300},
        {"temperature": 1.0, "top_p": 1e-300},
        {"temperature": 1.0, "min_p": 1e-300},
        {"temperature": 1.0, "min_p": 1 - 1e-16},
        {"temperature": 1.0, "top_p": 1 - 1e-16},
    ),
)
def test_options_at_the_ends_of_their_ranges_leave_a_distribution(extreme):
    options = Options(**extreme)
    options.check()
    logits_BV = logits(9)
    logits_BV[1, : BOS + 1] *= 1e37
    settings, state = sampling.settings([options] * B), sampling.initial([bytes(range(256)), b"", b"abc", b"\xff"])
    p_BV = np.asarray(distribution(logits_BV, settings, state))
    np.testing.assert_allclose(p_BV.sum(axis=-1), 1, atol=1e-5)
    assert not p_BV[:, BOS + 1 :].any()
    token_B, log_probability_B = choose(logits_BV, settings, state)
    assert (p_BV[np.arange(B), token_B] > 0).all() and not np.isnan(log_probability_B).any()


@pytest.mark.parametrize("temperature", (0.0, 1.0))
def test_a_row_without_a_distribution_ends_and_is_named(temperature):
    logits_BV = logits(0)
    sound = choose(logits_BV, sampling.settings([Options(temperature=temperature)] * B), sampling.initial([b""] * B))
    sampling.check_sound(sound[1])
    for bad in (np.nan, np.inf):
        bad_BV = logits_BV.copy()
        bad_BV[2, 17] = bad
        options = Options(temperature=temperature, top_p=0.9)
        token_B, log_probability_B = choose(bad_BV, sampling.settings([options] * B), sampling.initial([b""] * B))
        assert token_B[2] == BOS
        np.testing.assert_array_equal(np.isnan(log_probability_B), [False, False, True, False])
        with pytest.raises(UserError, match="row 2 are NaN or infinite"):
            sampling.check_sound(log_probability_B)
    bad_BV[2] = -np.inf
    token_B, log_probability_B = choose(bad_BV, sampling.settings([options] * B), sampling.initial([b""] * B))
    assert token_B[2] == BOS and np.isnan(log_probability_B[2])


def test_bfloat16_is_cast():
    half_BV = jnp.asarray(logits(0), jnp.bfloat16)
    settings, state = sampling.settings([Options()] * B), sampling.initial([b""] * B)
    for one, other in zip(
        choose(half_BV, settings, state), choose(half_BV.astype(jnp.float32), settings, state), strict=True
    ):
        np.testing.assert_array_equal(one, other)
        assert one.dtype == other.dtype


def test_alternatives_are_the_likeliest_of_the_models_own():
    logits_BV = logits(2)
    logits_BV[0, [3, 9]] = 50
    logits_BV[1, BOS] = 60
    log_probability_BK, token_BK = jax.jit(sampling.alternatives, static_argnums=1)(logits_BV, 5)
    for logits_V, log_probability_K, token_K in zip(logits_BV, log_probability_BK, token_BK, strict=True):
        own_V = log_softmax(logits_V)
        np.testing.assert_array_equal(token_K, np.argsort(-own_V, kind="stable")[:5])
        np.testing.assert_allclose(log_probability_K, own_V[token_K], atol=1e-5)
