import io
import sys

import pytest

from scratchpatch import progress
from scratchpatch.progress import Progress


class Clock:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


@pytest.fixture
def lines(caplog):
    caplog.set_level("INFO", logger="absl")
    return lambda: [record.getMessage() for record in caplog.records]


def test_lines_come_at_once_then_at_the_rarer_of_ten_seconds_and_a_twentieth(clock, lines):
    with Progress(total=100) as bar:
        for _ in range(100):
            clock.now += 1.0
            bar.advance(1, 2000, 3.0)
    text = lines()
    assert text[0] == "training: 1/100 steps (1%), 3.000 BPB"
    assert text[1] == "training: 11/100 steps (11%), 3.000 BPB, 2.0 kB/s, 1:29 left"
    assert len(text) == 1 + 9 + 1
    assert text[-1] == "training done: 100/100 steps (100%), 2.0 kB/s in 1:40, 3.000 BPB"


def test_slow_work_reports_every_twentieth_only(clock, lines):
    with Progress(total=40, first=20) as bar:
        for _ in range(20):
            clock.now += 3600.0
            bar.advance(1, 10, 1.0)
    assert len(lines()) == 20 + 1
    assert lines()[1] == "training: 22/40 steps (55%), 1.000 BPB, 0 B/s, 18:00:00 left"


def test_compilation_and_the_past_do_not_count_into_the_rate(clock, lines):
    with Progress(total=200, label="evaluating", unit="B") as bar:
        clock.now += 500.0
        bar.advance(20, 20)
        for _ in range(160):
            clock.now += 1.0
            bar.advance(1, 1000)
    assert lines()[-2].endswith(", 1.0 kB/s, 0:20 left")
    assert lines()[-1].startswith("evaluating stopped: 180/200 B (90%), 242 B/s in 11:00")


def test_an_exception_passes_and_the_summary_says_stopped(lines):
    with pytest.raises(KeyError), Progress(total=3) as bar:
        bar.advance(1, 1)
        raise KeyError
    assert lines()[-1].startswith("training stopped: 1/3 steps (33%)")


def test_work_that_was_done_before_says_so(lines):
    with Progress(total=3, first=3):
        pass
    assert lines() == ["training done: 3/3 steps (100%) in 0:00"]


def test_nothing_done_yet_leaves_the_time_unknown(clock, lines):
    with Progress(total=0, label="evaluating", unit="B") as bar:
        bar.advance(0, 0)
        clock.now += 20.0
        bar.advance(0, 0)
    assert lines()[:2] == ["evaluating: 0/0 B (100%)", "evaluating: 0/0 B (100%), 0 B/s"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_a_bar_and_no_lines_but_the_last(monkeypatch, clock, lines):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(total=4) as bar:
        for _ in range(4):
            clock.now += 2.0
            bar.advance(1, 5000, 2.25)
        bar.note("a validation")
    drawn = terminal.getvalue()
    assert "training 100%|" in drawn and "| 4/4, 2.250 BPB, 2.5 kB/s, 0:00 left" in drawn
    assert lines() == ["a validation", "training done: 4/4 steps (100%), 2.5 kB/s in 0:08, 2.250 BPB"]


def test_a_label_does_not_steer_the_terminal(monkeypatch):
    terminal = io.StringIO()
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stderr", terminal)
    with Progress(total=2, label="entropies of text:\x1b]0;owned\x07\u202e", unit="B"):
        pass
    said = terminal.getvalue()
    assert "text:\\x1b]0;owned\\x07\\u202e" in said and "\x1b]0" not in said and "\x07" not in said
