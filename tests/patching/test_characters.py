"""Whole characters: against the beginnings of all that there are, on many scripts and on bytes that are no text."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from scratchpatch import config as config_lib
from scratchpatch.patching import characters
from tests import tiny
from tests.patching import reference
from tests.tiny import BOS, PAD

LENGTH = 80
SCRIPTS = "naïve façade|Ελληνικά|русский язык|עברית|العربية|हिन्दी|ไทย|中文字符|日本語テキスト"
SCRIPTS += "|한국어 문장|𐍈𝄞😀|plain ASCII"
# Bytes at which ranges of Table 3-7 begin or end, and some between.
EDGES = bytes([0x00, 0x61, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC0, 0xC1, 0xC2, 0xDF, 0xE0, 0xE1, 0xEC, 0xED])
EDGES += bytes([0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF])


def row(data: bytes) -> np.ndarray:
    """int32 [1, LENGTH]: a document of these bytes, then PAD."""
    return np.array([[BOS, *data, *[PAD] * LENGTH][:LENGTH]], np.int32)


@functools.cache
def compiled():
    def run(tokens_BL, asked_BL):
        rows = tiny.rows(tokens_BL)
        inside_BL = characters.inside(rows)
        return inside_BL, characters.hold(asked_BL, inside_BL, rows)

    return jax.jit(run)


texts = st.one_of(
    st.text(max_size=30).map(str.encode),
    st.text(alphabet=SCRIPTS, max_size=30).map(str.encode),
    st.binary(max_size=LENGTH),
    st.lists(st.sampled_from(EDGES), max_size=LENGTH).map(bytes),
)


@settings(max_examples=200)
@given(data=texts, seed=st.integers(0, 2**32 - 1))
def test_nothing_fires_inside_a_character_and_everything_fires_by_its_end(data, seed):
    tokens_BL = row(data)
    asked_L = np.random.default_rng(seed).random(LENGTH) < 0.4
    inside_BL, held_BL = jax.device_get(compiled()(tokens_BL, (asked_L & (tokens_BL != PAD))))
    size = min(len(data) + 1, LENGTH)
    tokens = tokens_BL[0, :size].tolist()
    assert inside_BL[0, :size].tolist() == [reference.inside(tokens, n) for n in range(size)]
    assert not held_BL[0, size:].any()
    pending, wanted = False, []
    for n in range(size):
        pending |= bool(asked_L[n])
        wanted.append(pending and not inside_BL[0, n])
        pending &= bool(inside_BL[0, n])
    assert held_BL[0, :size].tolist() == wanted
    # No bytes, valid or not, hold a request back for longer than a character has bytes.
    run = longest = 0
    for is_inside in inside_BL[0].tolist():
        run = run + 1 if is_inside else 0
        longest = max(longest, run)
    assert longest < config_lib.LONGEST_CHARACTER


@pytest.mark.parametrize("text", SCRIPTS.split("|"))
def test_valid_text_is_whole_exactly_at_the_ends_of_its_characters(text):
    ends = np.cumsum([len(character.encode()) for character in text])
    inside_BL, _ = compiled()(row(text.encode()), np.zeros((1, LENGTH), bool))
    assert np.flatnonzero(~inside_BL[0, : ends[-1] + 1]).tolist() == [0, *ends]


def test_a_document_that_ends_inside_a_character_leaves_nothing_to_the_next():
    tokens_BL = np.array([[BOS, 0xE4, BOS, 0xBD, 65, 0xE4, 0xBD, PAD]], np.int32)
    rows = tiny.rows(tokens_BL)
    inside_BL = characters.inside(rows)
    assert inside_BL[0].tolist() == [False, True, False, False, False, True, True, False]
    asked_BL = jnp.zeros((1, 8), bool).at[0, jnp.array([1, 5])].set(True)
    assert not characters.hold(asked_BL, inside_BL, rows).any()


def decisions(text: str, fields):
    layout = tiny.decide(tiny.config(fields), row(text.encode()), np.zeros((1, LENGTH), np.float32))
    return np.flatnonzero(layout.commit_BL[0]).tolist(), np.flatnonzero(layout.scratchpad_BL[0]).tolist()


def test_fixed_patches_wait_for_the_character_and_pool_all_of_it():
    fields = {"patching.patch_bytes": 4, "patching.whole_characters": True, "trigger.kind": "none"}
    # The patches that end at positions 3, 7, 11 and 15 end with the characters there: é at 2-3, 中 at 5-7, and so on.
    assert decisions("aéb中cd😀e中", fields)[0] == [3, 7, 13, 17]
    assert config_lib.patch_limit(tiny.config(fields)) == 7


def test_patches_of_one_byte_become_patches_of_one_character():
    fields = {"patching.kind": "byte", "patching.whole_characters": True, "trigger.kind": "none"}
    assert decisions("aé中😀", fields)[0] == [0, 1, 3, 6, 10]
    assert config_lib.patch_limit(tiny.config(fields)) == 4


def test_a_stride_waits_for_the_character_and_goes_on_by_bytes():
    fields = {"trigger.kind": "stride", "trigger.stride": 2, "trigger.whole_characters": True, "data.window": LENGTH}
    fields |= {"patching.patch_bytes": 16, "trigger.capacity": 1.0}
    # Asked for at 1, 3, 5, ...: one of them inside é (1-2), two inside 😀 (4-7), which become one.
    assert decisions("éa😀bc", fields)[1] == [2, 3, 7, 9]
