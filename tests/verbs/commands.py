"""Command lines that fail, and the standard outputs that they write to."""

import io

from scratchpatch import cli


def raises(error):
    def function(*_, **__):
        raise error

    return function


def wrong(capsys, *argv):
    """Run a command line that is wrong usage; the one line that it says."""
    assert cli.main(list(argv)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("scratchpatch: ") and err.count("\n") == 1
    return err


class Stream(io.TextIOWrapper):
    """Standard output in some encoding, a terminal or none; `said()` is what has come out."""

    def __init__(self, encoding="utf-8", terminal=False):
        self._out = io.BytesIO()
        super().__init__(self._out, encoding=encoding, errors="strict")
        self.isatty = lambda: terminal

    def said(self) -> bytes:
        self.flush()
        return self._out.getvalue()
