import logging
import os

from scratchpatch import log_lines


def test_only_our_own_information_is_logged():
    def record(path, level):
        return logging.LogRecord("absl", level, path, 1, "x", (), None)

    ours = os.path.join(os.path.dirname(log_lines.__file__), "training", "loop.py")
    assert log_lines._wanted(record(ours, logging.INFO))
    assert not log_lines._wanted(record("/site-packages/orbax/checkpointer.py", logging.INFO))
    assert log_lines._wanted(record("/site-packages/orbax/checkpointer.py", logging.WARNING))
