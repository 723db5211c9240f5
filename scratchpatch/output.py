"""What a verb prints: one JSON object, or a table; how a count is written, and a text that anyone may have made."""

import codecs
import contextlib
import json
import math
import os
import sys
from collections.abc import Iterator
from typing import Any

_ERRORS = "scratchpatch"


def escaped(text: str, keep: str = "") -> str:
    """The text without characters that steer a terminal, or that no encoding has: `\\x1b` in their place.

    Those are control and format characters (also those that turn the direction of a line), line breaks, and the bytes of
    a file's name that are no UTF-8. `keep`: what stays all the same.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() or c in keep else _escape(c) for c in text)


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


class _Terminal:
    """A stream of text whose control characters are shown; line breaks and tabs stay."""

    def __init__(self, stream):
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(escaped(text, "\n\t"))
        return len(text)

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


@contextlib.contextmanager
def to_anywhere() -> Iterator[None]:
    """Let standard output take every text: on a terminal without control characters, elsewhere as it is.

    What its encoding lacks is escaped; bytes of a file's name that are no UTF-8 are written as they were. All is written
    when this is left: raises OSError where it cannot be.
    """
    stream = sys.stdout
    if stream is None:  # closed by who started this
        with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stdout(nowhere):
            yield
        return
    if not hasattr(stream, "reconfigure"):
        yield
        return
    before = stream.errors
    stream.reconfigure(errors=_ERRORS)
    try:
        with contextlib.redirect_stdout(_Terminal(stream)) if stream.isatty() else contextlib.nullcontext():
            yield
        stream.flush()
    finally:
        with contextlib.suppress(OSError, ValueError):
            stream.reconfigure(errors=before)


def _encoded(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    if "\udc80" <= character <= "\udcff":
        return bytes([ord(character) - 0xDC00]), error.start + 1
    return _escape(character), error.start + 1


codecs.register_error(_ERRORS, _encoded)


def plain(value: Any) -> Any:
    """`value` in the types that JSON has; NaN and infinities, which it lacks, become None."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def as_json(values: dict[str, Any]) -> str:
    """One JSON object on one line."""
    return json.dumps(plain(values), allow_nan=False)


def as_table(values: dict[str, Any]) -> str:
    """One line per value: its dotted name, then the value; a list on its own line."""
    rows = list(_rows(plain(values), ""))
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:{width}}  {text}".rstrip() for name, text in rows)


def quantity(value: float) -> str:
    """A count in few characters: 950, 12.5k, 3.1M, 1.2G."""
    for scale, unit in ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T"), (1e15, "P")):
        text = f"{value / scale:.3g}{unit}"
        # 999.6 rounds to a thousand, which the next unit writes as 1.
        if abs(value) < 999.5 * scale:
            break
    return text


def _rows(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _rows(value, f"{prefix}{name}.")
        else:
            yield escaped(prefix + name), _text(value)


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_text(v) for v in value)
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else escaped(str(value))
