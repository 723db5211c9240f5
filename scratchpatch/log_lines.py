"""What this program logs: plain lines on standard error."""

import logging
import os
from pathlib import Path

from absl import flags
from absl import logging as absl_logging

from scratchpatch import output


def to_stderr() -> None:
    """Ours from INFO up, the libraries' from WARNING up."""
    flags.FLAGS.mark_as_parsed()
    flags.FLAGS.logtostderr = True
    absl_logging.set_verbosity(absl_logging.INFO)
    absl_logging.use_absl_handler()
    handler = absl_logging.get_absl_handler()
    handler.setFormatter(_Lines("%(message)s"))
    handler.addFilter(_wanted)


class _Lines(logging.Formatter):
    """Messages hold names of files, and words of libraries: none steers a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        return output.escaped(super().format(record), "\n\t")


def _wanted(record: logging.LogRecord) -> bool:
    if record.name.startswith("matplotlib") and record.levelno <= logging.WARNING:
        return False  # where there is no home, it finds itself a folder, and says so
    ours = record.pathname.startswith(str(Path(__file__).parent) + os.sep)
    return ours or record.levelno >= logging.WARNING
