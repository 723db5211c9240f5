import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings

from scratchpatch.patching import rows as rows_lib, scores
from scratchpatch.vocabulary import BYTES
from tests import tiny
from tests.patching import reference
from tests.patching.strategies import entropies, rows
from tests.tiny import BOS, PAD


@settings(max_examples=30)
@given(tokens_BL=rows(), entropy_BL=entropies())
def test_scores_equal_loops_over_each_document(tokens_BL, entropy_BL):
    packed = tiny.rows(tokens_BL)
    jump_BL = np.asarray(scores.entropy_jump(jnp.asarray(entropy_BL), packed))
    word_BL = np.asarray(scores.word_end(packed))
    chance_BL = np.asarray(scores.chance(packed))
    for r, row in enumerate(tokens_BL.tolist()):
        for a, b in reference.spans(row):
            tokens, entropy = row[a:b], entropy_BL[r, a:b]
            assert jump_BL[r, a:b].tolist() == [reference.jump(entropy, n) for n in range(b - a)]
            assert chance_BL[r, a:b].tolist() == [reference.chance(tokens, n) for n in range(b - a)]
            wanted = [t < BOS and reference.word_end(tokens, n) for n, t in enumerate(tokens)]
            assert word_BL[r, a:b].tolist() == wanted


@settings(max_examples=30)
@given(tokens_BL=rows(), entropy_BL=entropies())
def test_scores_of_the_last_bytes_alone_are_those_of_the_row(tokens_BL, entropy_BL):
    packed = tiny.rows(tokens_BL)
    size = scores.LOOK_BACK + 1

    def ends(x_BL):
        """The bytes up to each position, [B * L, K], and before the row whatever there is."""
        padded_BM = np.pad(x_BL, ((0, 0), (size - 1, 0)), constant_values=67)
        return jnp.asarray(np.lib.stride_tricks.sliding_window_view(padded_BM, size, axis=1).reshape(-1, size))

    tail = rows_lib.tail(ends(tokens_BL), packed.offset_BL.reshape(-1), BYTES)
    assert (tail.offset_BL[:, -1] == packed.offset_BL.reshape(-1)).all()
    assert (tail.valid_BL[:, -1] == packed.valid_BL.reshape(-1)).all()
    for got_BK, wanted_BL in (
        (scores.word_end(tail), scores.word_end(packed)),
        (scores.chance(tail), scores.chance(packed)),
        (scores.entropy_jump(ends(entropy_BL), tail), scores.entropy_jump(jnp.asarray(entropy_BL), packed)),
    ):
        assert (got_BK[:, -1] == wanted_BL.reshape(-1)).all()


def word_ends(tokens: list[int]) -> list[int]:
    return np.flatnonzero(scores.word_end(tiny.rows([tokens]))[0]).tolist()


def test_a_word_ends_at_the_first_spacelike_byte_after_it():
    assert word_ends([BOS, *b"ab  c1,d"]) == [3, 7]
    assert word_ends([*b" a"]) == [0]


def test_multibyte_characters_are_spacelike_at_their_lead_byte_alone():
    assert word_ends([*"aé€b".encode()]) == [1, 3]


def test_bos_and_pad_are_not_spacelike():
    assert word_ends([BOS, BOS, PAD]) == []


def test_chance_is_even_in_0_to_1_and_depends_on_the_byte():
    tokens_BL = jnp.asarray(np.random.default_rng(0).integers(0, 256, (8, 512)), jnp.int32)
    chance_BL = np.asarray(scores.chance(tiny.rows(tokens_BL)))
    assert chance_BL.min() >= 0 and chance_BL.max() < 1
    counts, _ = np.histogram(chance_BL, 8, (0, 1))
    assert abs(counts / 512 - 1).max() < 0.15  # 512 expected per bin, standard deviation 21
    constant_BL = jnp.full((1, 512), 97)
    assert abs(np.asarray(scores.chance(tiny.rows(constant_BL))).mean() - 0.5) < 0.06
