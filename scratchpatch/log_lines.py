"""What this program logs: plain lines on standard error."""

import logging
import os
from pathlib import Path

from absl import flags
from absl import logging as absl_logging


def to_stderr() -> None:
    """Ours from INFO up, the libraries' from WARNING up."""
    flags.FLAGS.mark_as_parsed()
    flags.FLAGS.logtostderr = True
    absl_logging.set_verbosity(absl_logging.INFO)
    absl_logging.use_absl_handler()
    handler = absl_logging.get_absl_handler()
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(_wanted)


def _wanted(record: logging.LogRecord) -> bool:
    ours = record.pathname.startswith(str(Path(__file__).parent) + os.sep)
    return ours or record.levelno >= logging.WARNING
