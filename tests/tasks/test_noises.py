"""Noise on the characters of a text."""

import pytest
from hypothesis import given, strategies as st

from scratchpatch.tasks import noises

KINDS = ("ant_speak", "drop", "random_case", "repeat", "upper_case")
TEXT = "The quick brown fox jumps over the lazy dog, and süß is 甜. " * 40


def letters(text):
    return [character for character in text if character.isalpha()]


def test_upper_case_and_ant_speak_draw_nothing():
    assert noises.noised("upper_case", "aé z", 0, "") == "AÉ Z"
    assert noises.noised("ant_speak", "aé z", 0, "") == "A É   Z"


def test_drop_leaves_out_a_tenth():
    left = noises.noised("drop", TEXT, 0, "")
    assert 1 - len(left) / len(TEXT) == pytest.approx(0.1, abs=0.02)
    characters = iter(TEXT)
    assert all(character in characters for character in left)


@given(st.text(min_size=1, max_size=2), st.integers(0, 40))
def test_drop_leaves_a_character(text, seed):
    assert noises.noised("drop", text, seed, "").strip() or not text.strip()


def test_random_case_is_half_upper_case():
    changed = noises.noised("random_case", TEXT, 0, "")
    cased = [character for character in letters(changed) if character.upper() != character.lower()]
    assert sum(map(str.isupper, cased)) / len(cased) == pytest.approx(0.5, abs=0.03)
    assert changed.lower().replace("ss", "ß") == TEXT.lower().replace("ss", "ß")


def test_repeat_writes_a_fifth_one_to_four_times_more():
    # Neighbours differ, so runs tell what was repeated.
    text = "abcdefgh" * 500
    runs, at, repeated = [], 0, noises.noised("repeat", text, 0, "")
    for character in text:
        end = at
        while end < len(repeated) and repeated[end] == character:
            end += 1
        runs.append(end - at)
        at = end
    assert at == len(repeated) and set(runs) == {1, 2, 3, 4, 5}
    assert sum(run > 1 for run in runs) / len(runs) == pytest.approx(0.2, abs=0.02)
    assert sum(runs) / len(runs) == pytest.approx(1.5, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_has_the_same_noise_wherever_it_is_asked(kind):
    same = noises.noised(kind, TEXT, 3, "7/prompt")
    assert noises.noised(kind, TEXT, 3, "7/prompt") == same
    drawn = kind in ("drop", "random_case", "repeat")
    for other in ((4, "7/prompt"), (3, "8/prompt")):
        assert (noises.noised(kind, TEXT, *other) != same) == drawn


@pytest.mark.parametrize("kind", KINDS)
@given(text=st.text(), seed=st.integers(0, 9))
def test_noise_is_text(kind, text, seed):
    assert noises.noised(kind, text, seed, "x") == noises.noised(kind, text, seed, "x")
    noises.noised(kind, text, seed, "x").encode("utf-8", "surrogatepass")


def test_these_draws_stay():
    assert noises.noised("drop", "scratchpad patching", 1, "1") == "scratchpad paching"
    assert noises.noised("repeat", "scratchpad patching", 1, "1") == "scraaatchpaaddd pppppaaatccccchingggg"
