"""What this program prints and logs: results as JSON or tables, counts, and texts that anyone may have written."""

import codecs
import contextlib
import json
import logging
import math
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags, logging as absl_logging

_ERRORS = "scratchpatch"


def escaped(text: str, keep: str = "") -> str:
    """The text with `\\x1b` and the like in the place of what steers a terminal, or what no encoding has: control and
    format characters, line breaks, and the bytes of a file's name that are no UTF-8; not `keep`.
    """
    return text if text.isprintable() else "".join(c if c.isprintable() or c in keep else _escape(c) for c in text)


def _escape(character: str) -> str:
    if "\udc80" <= character <= "\udcff":
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode()


def one_line(text: object, longest: int | None = None) -> str:
    """The text, escaped, on one line of at most `longest` characters."""
    line = escaped(" ".join(str(text).split()))
    return line if longest is None or len(line) <= longest else f"{line[: longest - 3]}..."


def short_repr(value: Any) -> str:
    """The value as Python writes it, cut after 200 characters."""
    try:
        text = repr(value)
    except ValueError:
        return "a number of thousands of digits"
    except RecursionError:
        return "a value that is nested too deep"
    return text if len(text) <= 200 else f"{text[:200]}... ({len(text)} characters)"


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
    """Let standard output take every text: on a terminal without control characters, elsewhere as it is. Characters
    that its encoding lacks are escaped; bytes of a file's name that are no UTF-8 are written as they were. Everything
    is written when the context is left. Raises OSError where it cannot be.
    """
    stream = sys.stdout
    if stream is None:  # Whoever started this process closed it.
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


def alone(stream):
    """A stream of text that goes where this one went, to which libraries in C now give what standard error gets."""
    if isinstance(stream, _Terminal):
        return _Terminal(alone(stream._stream))
    stream.flush()
    own = os.fdopen(os.dup(stream.fileno()), "w", encoding=stream.encoding, errors=stream.errors)
    os.dup2(sys.stderr.fileno(), stream.fileno())
    return own


def _encode(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    is_byte = "\udc80" <= character <= "\udcff"
    return bytes([ord(character) - 0xDC00]) if is_byte else _escape(character), error.start + 1


codecs.register_error(_ERRORS, _encode)


def log_to_stderr() -> None:
    """Log plain lines on standard error: this package's from INFO up, those of libraries from WARNING up."""
    flags.FLAGS.mark_as_parsed()
    flags.FLAGS.logtostderr = True
    absl_logging.set_verbosity(absl_logging.INFO)
    absl_logging.use_absl_handler()
    handler = absl_logging.get_absl_handler()
    handler.setFormatter(_LogLine("%(message)s"))
    handler.addFilter(_is_logged)


class _LogLine(logging.Formatter):
    """Messages hold names of files, and words of libraries: none steers a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return escaped(super().format(record), "\n\t")


def _is_logged(record: logging.LogRecord) -> bool:
    if record.name.startswith("matplotlib") and record.levelno <= logging.WARNING:
        return False  # Where there is no home, matplotlib finds itself a folder, and says so.
    ours = record.pathname.startswith(str(Path(__file__).parent) + os.sep)
    return ours or record.levelno >= logging.WARNING


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


def as_columns(name: str, rows: dict[str, dict[str, Any]]) -> str:
    """One line per object, all of which have the same fields, below a line with the names of these."""
    fields = list(next(iter(rows.values()))) if rows else []
    cells = [[escaped(row), *(_cell(plain(value[field])) for field in fields)] for row, value in rows.items()]
    lines = [[escaped(name), *map(escaped, fields)], *cells]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines]
    return "\n".join("  ".join(line).rstrip() for line in padded)


def _rows(values: dict[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _rows(value, f"{prefix}{name}.")
        else:
            yield escaped(prefix + name), _cell(value)


def _cell(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_cell(v) for v in value)
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else escaped(str(value))


def quantity(value: float) -> str:
    """A count in few characters: 950, 12.5k, 3.1M, 1.2G."""
    for scale, unit in ((1, ""), (1e3, "k"), (1e6, "M"), (1e9, "G"), (1e12, "T"), (1e15, "P")):
        text = f"{value / scale:.3g}{unit}"
        # 999.6 rounds to a thousand, which the next unit writes as 1.
        if abs(value) < 999.5 * scale:
            break
    return text
