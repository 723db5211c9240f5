import logging
import os

from scratchpatch import log_lines


def record(path, level, message="x", name="absl", *arguments):
    return logging.LogRecord(name, level, path, 1, message, arguments, None)


def test_a_log_line_does_not_steer_a_terminal():
    made = log_lines._Lines("%(message)s")
    said = made.format(record("x", logging.INFO, "reading %s\n\tand more", "absl", "a\x1b[2J\r\u202e\udcff"))
    assert said == "reading a\\x1b[2J\\r\\u202e\\xff\n\tand more"


def test_what_matplotlib_says_without_a_home_is_not_logged():
    assert not log_lines._wanted(record("/x.py", logging.WARNING, name="matplotlib"))
    assert log_lines._wanted(record("/x.py", logging.ERROR, name="matplotlib"))


def test_only_our_own_information_is_logged():
    ours = os.path.join(os.path.dirname(log_lines.__file__), "training", "loop.py")
    assert log_lines._wanted(record(ours, logging.INFO))
    assert not log_lines._wanted(record("/site-packages/orbax/checkpointer.py", logging.INFO))
    assert log_lines._wanted(record("/site-packages/orbax/checkpointer.py", logging.WARNING))
