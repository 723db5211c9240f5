"""A passage of text with its patches, as a page and a terminal show it."""

import numpy as np
import pytest
from hypothesis import given, strategies as st

from scratchpatch.report import passage
from scratchpatch.report.passage import Passage
from tests.report.pages import Page

EVERY_BYTE = bytes(range(256))


def made(data: bytes, commits=(), scratchpads=(), nats=1.0) -> Passage:
    masks = np.zeros((2, len(data)), bool)
    masks[0, list(commits)] = masks[1, list(scratchpads)] = True
    return Passage(data, np.full(len(data), nats), *masks)


def cells(shown: Passage) -> list[tuple[set, str, str]]:
    """(classes, title, text) of each byte of the page."""
    page = Page(passage.to_html(shown))
    return [(set(attributes["class"].split()), attributes["title"], text) for attributes, text in page.cells]


@pytest.mark.parametrize(
    "data",
    [
        EVERY_BYTE,
        EVERY_BYTE[::-1],
        b"<script>alert('x')</script><img src=x onerror=y>",
        b'"></i></div><b onclick="x">&lt;&amp;&#60;',
        "naïve — 日本語 😀 e\u0301 \u202e\u2066\u200b\ufeff\x85".encode(),
        b"\xe2\x82 \xf0\x9f\x98 \xc0\xaf \xed\xa0\x80 \xff\xfe \x80",
        b"\x00",
        b"\r\n\n\r",
    ],
)
def test_every_byte_is_one_element_and_nothing_else_is(data):
    for marked in ((), range(len(data))):
        html = passage.to_html(made(data, commits=marked))
        page = Page(html)
        assert page.open == []
        assert {tag for tag, _ in page.tags} == {"div", "span", "i"}
        assert {name for _, attributes in page.tags for name in attributes} <= {"class", "title", "translate", "dir"}
        titles = [attributes["title"] for attributes, _ in page.cells]
        assert titles == [f"byte {n}: {byte:02x}, 1.00 nats" for n, byte in enumerate(data)]
        # No control character and nothing that turns the line reaches the page, but the newline that breaks it.
        assert all(c == "\n" or c.isprintable() for c in html)


def test_single_bytes_show_as_themselves_or_as_their_value():
    shown = passage.glyphs(made(EVERY_BYTE, commits=range(256)))
    assert shown[0x09] == "⇥" and shown[0x0A] == "⏎"
    for byte in range(256):
        if 0x20 <= byte < 0x7F:
            assert shown[byte] == chr(byte)
        elif byte not in (0x09, 0x0A):
            assert shown[byte] == f"‹{byte:02x}›"
    assert len(set(shown)) == 256


def test_a_character_shows_on_its_first_byte_unless_it_is_split():
    data = "a€b".encode()
    assert passage.glyphs(made(data)) == ["a", "€", "", "", "b"]
    # A mark after its last byte splits nothing.
    assert passage.glyphs(made(data, commits=[3])) == ["a", "€", "", "", "b"]
    for n in (1, 2):
        for marks in ({"commits": [n]}, {"scratchpads": [n]}):
            assert passage.glyphs(made(data, **marks)) == ["a", "‹e2›", "‹82›", "‹ac›", "b"]


def test_bytes_that_are_no_character_show_their_value():
    assert passage.glyphs(made(b"\xe2\x82")) == ["‹e2›", "‹82›"]
    assert passage.glyphs(made(b"\xc0\xaf")) == ["‹c0›", "‹af›"]
    assert passage.glyphs(made(b"\xff\xc3\xa9")) == ["‹ff›", "é", ""]
    # Valid, but a reader could not see it, or would see it join its neighbour.
    for text in ("\u200b", "\u202e", "\u0301", "\x85"):
        assert passage.glyphs(made(text.encode())) == [f"‹{byte:02x}›" for byte in text.encode()]


def test_commits_and_scratchpads_are_marked_at_their_bytes():
    shown_cells = cells(made(b"abcdefgh", commits=[3, 7], scratchpads=[0, 5]))
    assert [n for n, (classes, _, _) in enumerate(shown_cells) if "k" in classes] == [3, 7]
    assert [n for n, (classes, _, _) in enumerate(shown_cells) if "s" in classes] == [0, 5]
    assert "".join(text for _, _, text in shown_cells) == "abcdefgh"


def test_a_mark_on_the_rest_of_a_character_has_an_element_of_its_own():
    shown_cells = cells(made("é".encode(), commits=[1]))
    assert [(text, "k" in classes) for classes, _, text in shown_cells] == [("é", False), ("", True)]


def test_shade_grows_with_entropy_and_saturates():
    nats = np.array([0.0, 0.2, 1.0, 2.0, 4.0, 5.5, np.nan, np.inf, -0.1])
    none = np.zeros(len(nats), bool)
    shown_cells = cells(Passage(b"x" * len(nats), nats, none, none))
    assert [classes for classes, _, _ in shown_cells] == [{f"e{shade}"} for shade in (0, 0, 2, 4, 9, 9, 0, 0, 0)]
    assert shown_cells[2][1] == "byte 2: 78, 1.00 nats" and shown_cells[6][1] == "byte 6: 78"


def test_legend_shows_a_scale_where_there_are_entropies():
    assert "next-byte entropy" in passage.to_html(made(b"a"))
    headless = passage.to_html(made(b"a", nats=np.nan))
    assert "next-byte entropy" not in headless and "nan" not in headless


def test_newlines_break_lines():
    html = passage.to_html(made(b"a\nb\n"))
    assert html.count("⏎</i>\n<i") == 1 and html.count("⏎</i>\n</div>") == 1


def test_terminal_text():
    assert passage.to_text(made(b"ab\tc\nde", commits=[1, 4], scratchpads=[0, 3])) == "a·b│⇥c·⏎│\nde"
    assert passage.to_text(made(b"\x1b[31m\x9b")) == "‹1b›[31m‹9b›"
    assert passage.to_text(made(b"")) == ""


def test_only_the_beginning_of_a_long_text_is_drawn():
    shown = made(b"x" * (passage.LIMIT + 5))
    page = Page(passage.to_html(shown))
    assert len(page.cells) == passage.LIMIT
    assert "The first 16,384 of 16,389 bytes." in page.text
    assert passage.to_text(shown).endswith("x\n… 5 more bytes")


def test_empty_text():
    page = Page(passage.to_html(made(b"")))
    assert page.cells == [] and "empty text" in page.text


def test_json_round_trip():
    data = EVERY_BYTE + b"</script>"
    before = made(data, commits=[2, 9], scratchpads=[5], nats=1.25)
    before.entropy[3] = np.nan
    value = before.to_json()
    assert value["entropy"][2:4] == [1.25, None]
    after = Passage.from_json(value)
    assert after.data == data
    for name in ("entropy", "commit", "scratchpad"):
        np.testing.assert_array_equal(getattr(after, name), getattr(before, name))


def test_lengths_must_agree():
    with pytest.raises(ValueError, match=r"one entropy, commit and scratchpad per byte, not lengths \[2, 3\]"):
        Passage(b"abc", np.zeros(2), np.zeros(3, bool), np.zeros(3, bool))


def test_bytes_of_which_nothing_is_known_are_visible():
    assert passage.visible("é\t漢\n".encode() + b"\x1b[2J\xff\r") == "é⇥漢⏎\n‹1b›[2J‹ff›‹0d›"
    assert passage.visible(b"") == "" and len(passage.visible(b"a" * 20_000)) == 20_000


# Pieces of bytes, among them many that begin, continue or break a character.
_PARTS_OF_CHARACTERS = st.sampled_from([b"\xe2", b"\x82", b"\xac", b"\xf0"])
_PIECES = st.lists(st.one_of(st.binary(max_size=3), st.text(max_size=3).map(str.encode), _PARTS_OF_CHARACTERS))


@given(_PIECES)
def test_pieces_are_shown_as_the_whole_is(pieces):
    shown = passage.Visible()
    texts = [shown.push(piece) for piece in pieces]
    assert "".join(texts) + shown.end() == passage.visible(b"".join(pieces))


def test_a_character_waits_for_its_last_byte():
    shown = passage.Visible()
    assert [shown.push(bytes([byte])) for byte in "a€\n".encode()] == ["a", "", "", "€", "⏎\n"]
    assert shown.push(b"\xf0\x9f") == "" and shown.push(b"x") == "‹f0›‹9f›x"
    assert shown.push(b"\xe2\x82") == "" and shown.end() == "‹e2›‹82›" and shown.end() == ""
