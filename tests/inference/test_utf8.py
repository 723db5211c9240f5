"""The automaton against Python's own decoder. Legend: N sequences, n bytes of one, S states, R bytes left."""

import codecs

import numpy as np
import pytest
from hypothesis import given, strategies

from scratchpatch.inference import utf8
from scratchpatch.vocabulary import BYTES

BOS = BYTES.bos
# Every code point but surrogates, by the length of its encoding.
CODE_POINTS = {
    1: [range(0x80)],
    2: [range(0x80, 0x800)],
    3: [range(0x800, 0xD800), range(0xE000, 0x10000)],
    4: [range(0x10000, 0x110000)],
}
CHARACTERS = ("é", "€", "ठ", "한", "\ufffd", "😀", "\U0010ffff", "\U00010000")


def walk(data: bytes) -> tuple[bool, int]:
    """Whether every byte is well-formed after those before it, and the state at the end."""
    state, well_formed = utf8.ACCEPT, True
    for byte in data:
        well_formed &= bool(utf8.WELL_FORMED_SV[state, byte])
        state = int(utf8.NEXT_SV[state, byte])
    return well_formed, state


def pieces() -> strategies.SearchStrategy[bytes]:
    """Bytes that come near UTF-8: characters, parts of them, and anything."""
    encoded = strategies.characters(exclude_categories=["Cs"]).map(str.encode)
    cut = strategies.tuples(encoded, strategies.integers(0, 3)).map(lambda pair: pair[0][: pair[1]])
    odd = strategies.sampled_from(
        [b"\xed\xa0\x80", b"\xc0\xaf", b"\xe0\x80\xaf", b"\xf4\x90\x80\x80", b"\xff", b"\x80"]
    )
    return strategies.lists(encoded | cut | odd | strategies.binary(max_size=3), max_size=6).map(b"".join)


@pytest.mark.parametrize("length", CODE_POINTS)
def test_it_accepts_every_code_point(length):
    text = "".join(chr(point) for points in CODE_POINTS[length] for point in points)
    bytes_Nn = np.frombuffer(text.encode(), np.uint8).reshape(-1, length)
    state_N = np.zeros(len(bytes_Nn), np.int32)
    for n in range(length):
        assert utf8.WELL_FORMED_SV[state_N, bytes_Nn[:, n]].all()
        state_N = utf8.NEXT_SV[state_N, bytes_Nn[:, n]]
        assert (utf8.NEEDED_S[state_N] == length - 1 - n).all()


def test_it_accepts_nothing_else():
    """As many sequences lead from accept to accept, for the first time, as there are code points of that length."""
    step_SS = np.zeros((utf8.STATES, utf8.STATES), np.int64)
    for state in range(utf8.STATES):
        following = utf8.NEXT_SV[state, :BOS][utf8.WELL_FORMED_SV[state, :BOS]]
        step_SS[state] = np.bincount(following, minlength=utf8.STATES)
    ways_S = step_SS[utf8.ACCEPT]
    for points in CODE_POINTS.values():
        assert ways_S[utf8.ACCEPT] == sum(map(len, points))
        ways_S = np.delete(ways_S, utf8.ACCEPT) @ np.delete(step_SS, utf8.ACCEPT, axis=0)
    assert not ways_S.any()


@given(pieces())
def test_it_agrees_with_pythons_decoder(data):
    well_formed, state = walk(data)
    assert (well_formed and state == utf8.ACCEPT) == utf8.is_whole(data)


@given(pieces())
def test_invalid_bytes_lead_to_the_state_of_pythons_incremental_decoder(data):
    decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
    decoder.decode(data)
    pending, _ = decoder.getstate()
    assert walk(data)[1] == walk(pending)[1]
    assert (walk(data)[1] == utf8.ACCEPT) == (pending == b"")


@given(pieces())
def test_the_state_depends_on_the_last_three_bytes(data):
    assert utf8.state_after(data) == walk(data)[1]


@given(strategies.text(), strategies.integers(0, 3))
def test_what_completes_an_open_character_decodes(text, seed):
    rng = np.random.default_rng(seed)
    whole = text.encode()
    for cut in range(len(whole) + 1):
        data, state = whole[:cut], utf8.state_after(whole[:cut])
        for left in range(int(utf8.NEEDED_S[state]), 0, -1):
            choices = np.flatnonzero(utf8.ALLOWED_RSV[left, state])
            data += bytes([rng.choice(choices)])
            state = utf8.state_after(data)
        data.decode()


def test_every_allowed_byte_can_be_completed():
    for left in range(utf8.ENOUGH + 1):
        for state in range(utf8.STATES):
            allowed = np.flatnonzero(utf8.ALLOWED_RSV[left, state, :BOS])
            assert (utf8.NEEDED_S[utf8.NEXT_SV[state, allowed]] <= left - 1).all()
            assert len(allowed) if utf8.NEEDED_S[state] <= left and left else not len(allowed)


def test_a_long_budget_forbids_nothing_that_is_well_formed():
    np.testing.assert_array_equal(utf8.ALLOWED_RSV[utf8.ENOUGH, :, :BOS], utf8.WELL_FORMED_SV[:, :BOS])


def test_a_document_ends_between_characters_or_where_no_room_is_left():
    for left in range(utf8.ENOUGH + 1):
        for state, needed in enumerate(utf8.NEEDED_S):
            ends = state == utf8.ACCEPT or needed > left
            assert utf8.ALLOWED_RSV[left, state, BOS] == ends
            assert utf8.ALLOWED_RSV[left, state].any()
    assert not utf8.ALLOWED_RSV[..., BOS + 1 :].any()
    assert (utf8.NEXT_SV[:, BOS] == utf8.ACCEPT).all()


@pytest.mark.parametrize("character", CHARACTERS)
def test_whole_characters(character):
    data = character.encode()
    assert utf8.is_whole(data) and utf8.is_whole(b"")
    for cut in range(1, len(data)):
        assert not utf8.is_whole(data[:cut]) and not utf8.is_whole(data[cut:])
