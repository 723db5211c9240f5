"""A passage of text with its patches: bytes shaded by entropy, one rendering for pages and one for terminals.

None of the 256 byte values reaches the reader raw: a newline is ⏎, a tab ⇥, what is not printable its hex value as
‹0a›. A character of several bytes is shown on the first of them, unless a patch ends or a scratchpad fires inside it:
then each byte shows its hex value.
"""

from __future__ import annotations

import base64
import codecs
import dataclasses
import html
import math
import unicodedata
from pathlib import Path

import numpy as np

SHADES = 10
FULL_SHADE_NATS = 4.0  # a uniform guess over 256 bytes is 5.55 nats
LIMIT = 16384  # bytes drawn; a page of more is slower to open than to read
STYLE = Path(__file__).with_name("page.css")


@dataclasses.dataclass(frozen=True)
class Passage:
    """Bytes and what a model decides after each of them. entropy: of the next byte, nats (NaN where the model has
    none). commit: a patch ends. scratchpad: one fires.
    """

    data: bytes
    entropy: np.ndarray
    commit: np.ndarray
    scratchpad: np.ndarray

    def __post_init__(self):
        lengths = {len(self.data), len(self.entropy), len(self.commit), len(self.scratchpad)}
        if len(lengths) > 1:
            wanted = "one entropy, commit and scratchpad per byte"
            raise ValueError(f"a passage needs {wanted}, not lengths {sorted(lengths)}")

    @classmethod
    def from_json(cls, value: dict) -> Passage:
        """The inverse of `to_json`; raises KeyError or ValueError on anything else."""
        masks = (np.asarray(value[name], bool) for name in ("commit", "scratchpad"))
        return cls(base64.b64decode(value["text_base64"]), np.asarray(value["entropy"], float), *masks)

    def to_json(self) -> dict:
        """A dict of plain values: base64 text, and lists; None where there is no entropy."""
        return {
            "text_base64": base64.b64encode(self.data).decode(),
            "entropy": [round(float(e), 4) if math.isfinite(e) else None for e in self.entropy],
            "commit": [bool(c) for c in self.commit], "scratchpad": [bool(s) for s in self.scratchpad],
        }

    def head(self, length: int) -> Passage:
        """Its first `length` bytes."""
        return Passage(self.data[:length], self.entropy[:length], self.commit[:length], self.scratchpad[:length])


def glyphs(passage: Passage) -> list[str]:
    """One text per byte, '' for the rest of a character that its first byte shows."""
    data, out, at = passage.data, [], 0
    marked = np.asarray(passage.commit, bool) | np.asarray(passage.scratchpad, bool)
    while at < len(data):
        length = _character(data, at)
        if length > 1 and not marked[at : at + length - 1].any():
            out += [data[at : at + length].decode()] + [""] * (length - 1)
        else:
            out += [_glyph(byte) for byte in data[at : at + length]]
        at += length
    return out


def visible(data: bytes) -> str:
    """Bytes of which nothing is known but themselves, for a terminal."""
    nothing = np.zeros(len(data), bool)
    shown = glyphs(Passage(data, np.full(len(data), np.nan), nothing, nothing))
    return "".join(glyph + "\n" * (byte == 0x0A) for glyph, byte in zip(shown, data, strict=True))


class Visible:
    """What `visible` makes of bytes that come piece by piece: a character waits for its last byte."""

    def __init__(self):
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._open = b""

    def push(self, piece: bytes) -> str:
        """The text of all bytes up to here that was not given before, but for a character that is still open."""
        data = self._open + piece
        self._decoder.decode(piece)
        self._open, _ = self._decoder.getstate()
        return visible(data[: len(data) - len(self._open)])

    def end(self) -> str:
        """The text of a character that stayed open."""
        rest, self._open = self._open, b""
        return visible(rest)


def to_html(passage: Passage) -> str:
    """The passage as an HTML fragment with its legend, styled by `STYLE`; every byte is one escaped element."""
    shown = passage.head(LIMIT)
    cells = []
    for n, glyph in enumerate(glyphs(shown)):
        byte, entropy = shown.data[n], float(shown.entropy[n])
        classes = f"e{_shade(entropy)}" + " k" * bool(shown.commit[n]) + " s" * bool(shown.scratchpad[n])
        classes += " h" * glyph.startswith("‹") + " n" * (glyph in ("⏎", "⇥"))
        newline = "\n" if byte == 0x0A else ""
        nats = f", {entropy:.2f} nats" if math.isfinite(entropy) else ""
        cells.append(f'<i class="{classes}" title="byte {n}: {byte:02x}{nats}">{html.escape(glyph)}</i>{newline}')
    more = len(passage.data) - len(shown.data)
    note = f'<p class="note">The first {len(shown.data):,} of {len(passage.data):,} bytes.</p>' if more else ""
    text = "".join(cells) or '<span class="note">empty text</span>'
    marks = legend(shaded=bool(np.isfinite(shown.entropy).any()))
    return f'{marks}<div class="passage" translate="no" dir="ltr">{text}</div>{note}'


def to_text(passage: Passage) -> str:
    """The passage for a terminal: │ after a patch's last byte, · where a scratchpad fires."""
    shown = passage.head(LIMIT)
    text = ""
    for glyph, byte, commit, scratchpad in zip(glyphs(shown), shown.data, shown.commit, shown.scratchpad, strict=True):
        text += glyph + "│" * bool(commit) + "·" * bool(scratchpad) + "\n" * (byte == 0x0A)
    more = len(passage.data) - len(shown.data)
    return text + (f"\n… {more:,} more bytes" if more else "")


def _character(data: bytes, at: int) -> int:
    """Bytes of the showable UTF-8 character at `at`; 1 where there is none of several bytes."""
    for length in (2, 3, 4):
        try:
            character = data[at : at + length].decode()
        except UnicodeDecodeError:
            continue
        # A mark would join the byte before it, and look like that byte's.
        if len(character) == 1 and len(data[at : at + length]) == length:
            shows = character.isprintable() and not unicodedata.category(character).startswith("M")
            return length if shows else 1
    return 1


def _glyph(byte: int) -> str:
    plain = chr(byte) if 0x20 <= byte < 0x7F else f"‹{byte:02x}›"
    return {0x0A: "⏎", 0x09: "⇥"}.get(byte, plain)


def _shade(nats: float) -> int:
    shade = nats / FULL_SHADE_NATS * (SHADES - 1) if math.isfinite(nats) else 0
    return min(max(round(shade), 0), SHADES - 1)


def legend(shaded: bool) -> str:
    """What the marks of a passage mean, as an HTML fragment; `shaded`: entropies too."""
    shades = "".join(f'<i class="e{n}"></i>' for n in range(SHADES))
    scale = f'<span class="scale">next-byte entropy 0 {shades} {FULL_SHADE_NATS:g}+ nats</span>'
    return (
        f'<div class="legend">{scale if shaded else ""}'
        '<span><i class="k">a</i> a patch ends after this byte: a commit</span>'
        '<span><i class="s">a</i> the context is refreshed after this byte: a scratchpad</span>'
        "<span>⏎ newline, ⇥ tab, ‹00› any other byte</span></div>"
    )
