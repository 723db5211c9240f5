import jax.numpy as jnp
import numpy as np
import pytest

from scratchpatch.patching import patchifiers
from scratchpatch.patching.scores import Signals
from tests import tiny
from tests.tiny import BOS, PAD

BLT = {"commit_bos": True, "capacity": 1.0}


def requests(kind: str, tokens: list[int], entropy=None, threshold: float = 1.0, **fields) -> list[int]:
    """Positions at which a patchifier asks for a commit."""
    config = tiny.config({"patching.kind": kind, **{f"patching.{k}": v for k, v in fields.items()}})
    tokens_BL = jnp.array([tokens])
    entropy_BL = jnp.zeros(tokens_BL.shape) if entropy is None else jnp.array([entropy], jnp.float32)
    rows, signals = tiny.rows(tokens_BL), Signals(entropy_BL, boundary_BL=entropy_BL / 4)
    got_BL, threshold_BL = patchifiers.request(config.patching, rows, signals, jnp.float32(threshold))
    assert threshold_BL.tolist() == [[threshold] * len(tokens)]
    return np.flatnonzero(got_BL[0]).tolist()


def test_byte_asks_everywhere_but_at_pad():
    assert requests("byte", [BOS, 1, 2, PAD]) == [0, 1, 2]


def test_fixed_counts_from_bos():
    assert requests("fixed", [7, 7, BOS, 1, 2, 3, 4, 5, 6, BOS, 1], patch_bytes=3) == [4, 7]
    assert requests("fixed", [7, 7, 7, 7], patch_bytes=2) == [1, 3]


def test_whitespace_ends_a_patch_with_the_space_after_a_word():
    assert requests("whitespace", [BOS, *b"ab cd  e"], max_patch_bytes=64) == [3, 6]


# Text, and a ^ below each byte that ends a patch; the BOS, which ends one as well, is left out.
SPACEBYTE = {
    "words": ("Hello, world. It's 4.", ".....^......^...^.^.^"),
    "blanks in runs": ("a   b\t\n\n c", ".^...^...."),
    "a blank at the beginning": (" a  b", "..^.."),
    "code": ("x_1 = f(a,  b)\n    return", ".^.^...^.^...^..........."),
    "accents": ("é caf\u00e9s", "..^...^.."),
    "Chinese": ("你好，世界。\n", "...^..^..^..^..^..^"),
    "Chinese and ASCII": ("a你 b\n好", ".^..^.^..."),
    "emoji": ("😀😀!", "....^...^"),
    "no UTF-8": (b"\xff\xfe a\xbf\xbf\xc3", "......^"),
}


@pytest.mark.parametrize("name", SPACEBYTE)
def test_spacebytes_rule(name):
    """Space-like: neither an ASCII letter or digit nor a continuation byte. The first of a run ends a patch, and a BOS
    is space-like itself.
    """
    text, marks = SPACEBYTE[name]
    data = text if isinstance(text, bytes) else text.encode()
    assert len(data) == len(marks)
    wanted = [0, *(n for n, mark in enumerate(marks, 1) if mark == "^")]
    assert requests("whitespace", [BOS, *data], max_patch_bytes=64, **BLT) == wanted


def test_the_bos_stands_before_no_space_where_it_is_no_patch():
    assert requests("whitespace", [BOS, *b" a  b"], max_patch_bytes=64) == [1, 3]
    assert requests("whitespace", [BOS, *"你好".encode()], max_patch_bytes=64) == [1, 4]
    # A document ends with a space-like byte, and the next one begins with one.
    tokens = [*b"a ", BOS, *b" b ", BOS, BOS, 32]
    assert requests("whitespace", tokens, max_patch_bytes=64, **BLT) == [1, 2, 5, 6, 7]
    assert requests("whitespace", tokens, max_patch_bytes=64) == [1, 3, 5, 8]


def test_entropy_ends_a_patch_where_the_next_byte_is_uncertain():
    assert requests("entropy", [BOS, *b"abcd"], [2.0, 0.5, 1.0, 1.5, 0.0]) == [0, 3]


def test_entropy_jump_ends_a_patch_where_uncertainty_rises():
    assert requests("entropy_jump", [BOS, *b"abcd"], [9.0, 1.0, 2.5, 3.0, 4.5]) == [2, 4]
    assert requests("entropy_jump", [BOS, 1, BOS, 2], [0.0, 0.5, 9.0, 9.5]) == []


def test_entropy_and_jump_ends_a_patch_where_uncertainty_is_high_and_rises():
    entropy = [9.0, 1.5, 2.5, 2.0, 0.5, 0.9, 3.0]
    assert requests("entropy_and_jump", [BOS, *b"abcdef"], entropy) == [2, 6]
    assert requests("entropy_and_jump", [BOS, *b"abcdef"], entropy, jump=1.5) == [6]
    # Falling by less than 0.8 is allowed here.
    assert requests("entropy_and_jump", [BOS, *b"abcdef"], entropy, jump=-0.8) == [2, 3, 6]
    assert requests("entropy_and_jump", [BOS, 1, BOS, 2], [0.0, 0.5, 9.0, 9.5]) == [3]


def test_learned_ends_a_patch_where_a_boundary_is_likelier_than_not_however_long_it_is():
    likely = [4.0, 2.0, 2.01, *[0.5] * 20, 3.0]
    assert requests("learned", [BOS, *b"a" * 22, PAD], likely, max_patch_bytes=4) == [0, 2]
    assert requests("learned", [BOS, *b"a" * 23], likely, max_patch_bytes=4) == [0, 2, 23]


BLT = {"commit_bos": True, "capacity": 1.0}


@pytest.mark.parametrize(
    "kind, asked",
    [
        # Of documents of one, two, three and six tokens, all of whose bytes would ask by their score.
        ("entropy", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        ("entropy_jump", [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]),
        # The byte two behind a BOS is left out.
        ("entropy_and_jump", [0, 1, 2, 3, 4, 6, 7, 9, 10, 11]),
        ("whitespace", [0, 1, 3, 6]),
    ],
)
def test_blt_ends_a_patch_with_the_bos(kind, asked):
    tokens = [BOS, BOS, 97, BOS, 97, 98, BOS, *b"abcde"]
    assert requests(kind, tokens, [float(n) for n in range(2, 14)], threshold=0.5, max_patch_bytes=9, **BLT) == asked


@pytest.mark.parametrize(
    "kind, asked", [("entropy", [0]), ("entropy_jump", [0, 1]), ("entropy_and_jump", [0, 1]), ("whitespace", [0])]
)
def test_blt_ends_the_first_patches_whatever_their_scores(kind, asked):
    assert requests(kind, [BOS, *b"abcde"], [0.0] * 6, max_patch_bytes=9, **BLT) == asked
    # The lengths that chopping counts begin behind them.
    chopped = [*asked, asked[-1] + 3]
    assert requests(kind, [BOS, *b"abcd"], [0.0] * 5, max_patch_bytes=3, **BLT) == chopped


def test_blt_counts_jumps_from_a_documents_second_byte():
    entropy = [0.0, 5.0, 9.0, 1.0, 4.0]
    assert requests("entropy_jump", [BOS, *b"abcd"], entropy, max_patch_bytes=9, **BLT) == [0, 1, 2, 4]
    assert requests("entropy_and_jump", [BOS, *b"abcd"], entropy, max_patch_bytes=9, **BLT) == [0, 1, 4]
    # A row that begins inside a document holds no BOS.
    assert requests("entropy_jump", [*b"abcde"], entropy, max_patch_bytes=9, **BLT) == [2, 4]
    assert requests("entropy_and_jump", [*b"abcde"], entropy, max_patch_bytes=9, **BLT) == [4]


@pytest.mark.parametrize("kind", ["whitespace", "entropy", "entropy_jump", "entropy_and_jump"])
def test_a_patch_of_variable_size_is_chopped(kind):
    assert requests(kind, [BOS, *b"aaaaaaaa", BOS, *b"aaa", PAD, PAD], max_patch_bytes=4) == [3, 7, 12]


def test_the_open_patch_is_not_closed_by_a_bos():
    assert requests("fixed", [BOS, 1, BOS, 1], patch_bytes=3) == []


def test_chop_counts_from_the_last_request():
    asked_BL = jnp.zeros((1, 12), bool).at[0, 4].set(True)
    chopped_BL = patchifiers.chop(asked_BL, tiny.rows(jnp.zeros((1, 12), jnp.int32)), 3)
    assert np.flatnonzero(chopped_BL[0]).tolist() == [2, 4, 7, 10]


def test_chop_counts_alike_byte_by_byte():
    since_B, chopped = jnp.array([9]), []
    for n in range(12):
        request_B, since_B = patchifiers.chop_step(jnp.array([n == 4]), since_B, jnp.array([n]), 3)
        chopped += [n] if request_B[0] else []
    assert chopped == [2, 4, 7, 10] and since_B.tolist() == [7]
